//! Whether every index is valid, on the table and on every shard.

use super::relations::{Index, Relation, Relations};
use super::{Check, listed};
use crate::index::standard_indexes;
use crate::postgres::catalog::Target;
use crate::postgres::types::TargetType;

/// What is wrong with an index of the table.
#[derive(Debug, Default)]
struct Faults<'a> {
    /// Shards where it is being built, where a build was broken off, and where it is not at all.
    building: Vec<&'a str>,
    broken: Vec<&'a str>,
    missing: Vec<&'a str>,
}

/// Valid, there on every shard, and an HNSW index among them.
pub(super) fn check(target: &Target, relations: &Relations) -> Check {
    let of_table = &relations.table.indexes;
    let names: Vec<&str> = of_table.iter().map(|index| index.name.as_str()).collect();
    let on = match relations.shards.len() {
        0 => String::new(),
        shards => format!(", on {} of {shards} shards", relations.holders().count()),
    };
    let found = match names.len() {
        0 => "none".into(),
        count => format!("{count}: {}{on}", names.join(", ")),
    };
    let mut check = Check::pass("indexes", found);
    for index in of_table {
        let mut faults = Faults::default();
        faults.add(Some(index), &relations.table.name);
        for (shard, relation) in relations.copies() {
            faults.add(of_shard(index, of_table, shard, relation), &relation.name);
        }
        faults.tell(&mut check, &index.name);
    }
    for (_, relation) in relations.copies() {
        extra(&mut check, of_table, relation);
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

impl<'a> Faults<'a> {
    fn add(&mut self, index: Option<&Index>, table: &'a str) {
        match index {
            Some(index) if index.valid => {}
            Some(index) if index.building => self.building.push(table),
            Some(_) => self.broken.push(table),
            None => self.missing.push(table),
        }
    }

    fn tell(&self, check: &mut Check, name: &str) {
        let again = "drop it (drop index if exists NAME), then build it again: vecload migrate, with the table's --dim \
                     and --type";
        if !self.building.is_empty() {
            let cause = format!("{name} is being built on {}", listed(&self.building));
            check.warn(cause, "wait for it, then run vecload verify again");
        }
        if !self.broken.is_empty() {
            let cause = format!(
                "{name} is not valid on {}: a build was broken off, and what it has left costs writes and serves no \
                 search",
                listed(&self.broken)
            );
            check.fail(cause, again);
        }
        // Where a build was broken off on the table, it never came to some shards.
        if self.broken.is_empty() && !self.missing.is_empty() {
            check.fail(format!("{name} is missing on {}", listed(&self.missing)), again);
        }
    }
}

/// The index of a shard that belongs to one of the table: by its name, or, where that was too long for the shard's
/// number, by what it indexes.
fn of_shard<'a>(index: &Index, of_table: &[Index], shard: i64, relation: &'a Relation) -> Option<&'a Index> {
    let named = |index: &Index| format!("{}_{shard}", index.name);
    let by_name = relation.indexes.iter().find(|other| other.name == named(index));
    by_name.or_else(|| {
        let is_anothers = |other: &&Index| of_table.iter().any(|index| other.name == named(index));
        relation.indexes.iter().find(|other| other.what == index.what && !is_anothers(other))
    })
}

/// Broken indexes of a shard that the table does not know.
fn extra(check: &mut Check, of_table: &[Index], relation: &Relation) {
    let unknown = |index: &&Index| !of_table.iter().any(|other| other.what == index.what);
    let broken = |index: &&Index| !index.valid && !index.building;
    let names: Vec<&str> =
        relation.indexes.iter().filter(unknown).filter(broken).map(|index| index.name.as_str()).collect();
    if !names.is_empty() {
        check.fail(
            format!("not valid on {}, and unknown to the table: {}", relation.name, listed(&names)),
            "on the shard's node: drop index NAME",
        );
    }
}
