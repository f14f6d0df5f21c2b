//! Whether every index is valid, on the table and on every shard.

use std::collections::BTreeMap;

use super::relations::{Index, Relation, Relations};
use super::{Check, listed};
use crate::index::standard_indexes;
use crate::postgres::catalog::Target;
use crate::postgres::types::TargetType;

/// Valid, there on every shard, and an HNSW index among them.
pub(super) fn check(target: &Target, relations: &Relations) -> Check {
    let of_table = &relations.table.indexes;
    let names: Vec<String> = of_table.iter().map(|index| short(&index.name, target)).collect();
    let on = match relations.shards.len() {
        0 => String::new(),
        shards => format!(", on {} of {shards} shards", relations.holders().count()),
    };
    let found = match names.len() {
        0 => "none".into(),
        count => format!("{count}: {}{on}", names.join(", ")),
    };
    let mut check = Check::pass("indexes", found);
    broken(&mut check, &relations.table);
    for shard in relations.shards.iter().filter_map(|shard| shard.relation()) {
        broken(&mut check, shard);
        if !check.cause.as_deref().unwrap_or_default().contains("not valid") {
            missing(&mut check, of_table, shard);
        }
    }
    let is_vector = |kind: &Option<TargetType>| kind.as_ref().and_then(TargetType::vector_dim).is_some();
    let embedding = target
        .column("embedding")
        .or_else(|| target.columns.iter().find(|column| is_vector(&column.target_type)));
    let hnsw: Vec<&Index> = of_table.iter().filter(|index| index.what.starts_with("hnsw")).collect();
    let possible =
        embedding.is_some_and(|column| standard_indexes(target, &column.name).without_hnsw.is_none());
    if hnsw.is_empty() && possible {
        check.warn(
            "there is no HNSW index: a search compares the query with every row",
            "vecload migrate with the table's --dim and --type builds it",
        );
    } else if !hnsw.is_empty() && !hnsw.iter().any(|index| index.what.contains("_cosine_ops")) {
        check.warn(
            "no HNSW index is by cosine distance, the distance of vecload search: it compares the query with every row",
            "vecload migrate with the table's --dim and --type builds one",
        );
    }
    check
}

fn broken(check: &mut Check, relation: &Relation) {
    let invalid = |building: bool| -> Vec<&str> {
        let of = relation.indexes.iter().filter(|index| !index.valid && index.building == building);
        of.map(|index| index.name.as_str()).collect()
    };
    let (building, broken) = (invalid(true), invalid(false));
    if !building.is_empty() {
        check.warn(
            format!("being built: {}", listed(&building)),
            "wait for it, then run vecload verify again",
        );
    }
    if !broken.is_empty() {
        check.fail(
            format!("not valid: {}", listed(&broken)),
            "a build was broken off, and what it has left costs writes and serves no search: drop the index of the \
             table (drop index NAME), then build it again: vecload migrate, with the table's --dim and --type",
        );
    }
}

fn missing(check: &mut Check, of_table: &[Index], shard: &Relation) {
    let mut there: BTreeMap<&str, usize> = BTreeMap::new();
    for index in &shard.indexes {
        *there.entry(&index.what).or_default() += 1;
    }
    let lacks: Vec<&str> = of_table
        .iter()
        .filter(|index| match there.get_mut(index.what.as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .map(|index| index.name.as_str())
        .collect();
    if !lacks.is_empty() {
        check.fail(
            format!("{} has no {}", shard.name, listed(&lacks)),
            "drop the index of the table (drop index NAME), then build it again: vecload migrate, with the table's \
             --dim and --type",
        );
    }
}

/// A name without the schema that the table has too.
fn short(name: &str, target: &Target) -> String {
    let schema = target.name.schema.as_deref().map(|schema| format!("{schema}."));
    schema.and_then(|schema| name.strip_prefix(&schema)).unwrap_or(name).to_string()
}
