//! The table's storage: the table itself, and on Citus its shards on their nodes, with indexes, sizes and estimates.
//! All of it is from the catalogs; no row is read.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Answer;
use super::cluster::Cluster;
use crate::error::Error;
use crate::postgres::catalog::Target;
use crate::postgres::{Session, quote_literal};

/// Of the commonest channels of a relation, so many are looked at.
const CHANNELS_MAX: usize = 5;

/// An index as a catalog has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Index {
    /// Its name; it is in the schema of its table.
    pub name: String,
    /// Access method, columns, options and condition: the same for a table and its shards.
    pub what: String,
    /// Whether queries may use it and writes keep it.
    pub valid: bool,
    /// Whether it is being built now.
    pub building: bool,
}

/// A table in a catalog: the target, or a shard of it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Relation {
    shard: Option<i64>,
    /// Its name, with its schema.
    pub name: String,
    /// Estimated rows; -1 before the first ANALYZE.
    rows: f64,
    /// Its size without indexes.
    pub bytes: i64,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// The commonest channels and their share of the rows, as ANALYZE saw them.
    pub channels: Vec<(String, f64)>,
}

impl Relation {
    /// Estimated rows, if it was analyzed.
    pub(super) fn rows(&self) -> Option<f64> {
        (self.rows >= 0.0).then_some(self.rows)
    }
}

/// Where a shard is said to be.
#[derive(Debug)]
pub(super) struct Placement {
    /// The node's number.
    pub group: i32,
    /// Whether it may be read.
    pub active: bool,
    /// Its table on that node, if the node answers and has it.
    pub relation: Option<Relation>,
}

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    /// Its id.
    pub id: i64,
    /// The hashes it holds.
    pub range: Option<(i64, i64)>,
    /// Where it is.
    pub placements: Vec<Placement>,
}

impl Shard {
    /// What is known of its table.
    pub(super) fn relation(&self) -> Option<&Relation> {
        self.placements.iter().find_map(|placement| placement.relation.as_ref())
    }
}

/// A table of a shard on a node where the shard is not.
#[derive(Debug)]
pub(super) struct Stray {
    /// Its name.
    pub table: String,
    group: i32,
    /// The node.
    pub node: String,
    /// Whether Citus will drop it by itself: it does so some time after a move.
    pub will_be_dropped: bool,
}

/// The table and its shards.
#[derive(Debug)]
pub(super) struct Relations {
    /// The table as queries name it. On Citus it holds no rows.
    pub table: Relation,
    /// Its shards; none where the table is not distributed.
    pub shards: Vec<Shard>,
    /// Tables of shards on nodes where the cluster does not look for them.
    pub strays: Vec<Stray>,
    /// Whether this role may read the rows.
    pub readable: bool,
}

const SHARDS: &str = "
    select s.shardid, s.shardminvalue::bigint as low, s.shardmaxvalue::bigint as high,
        array_agg(p.groupid) filter (where p.groupid is not null) as groups,
        array_agg(p.shardstate = 1) filter (where p.groupid is not null) as active
    from pg_dist_shard s left join pg_dist_placement p using (shardid)
    where s.logicalrelid = $1::oid group by 1, 2, 3 order by 2, 1";

impl Relations {
    /// Reads the catalogs of all nodes.
    pub(super) async fn find(session: &Session, cluster: &Cluster, target: &Target) -> Answer<Self> {
        let of_table: String =
            session.query_one(&facts(&format!("c.oid = {}", target.oid), target), &[]).await?.get(0);
        let table = read(&of_table)?.into_iter().next().ok_or_else(|| {
            Error::failed(format!("{} was dropped meanwhile", target.name)).hint("run it again")
        })?;
        let may_read = "select has_table_privilege($1::oid, 'select')";
        let readable = session.query_one(may_read, &[&target.oid]).await?.get(0);
        let mut relations = Self { table, shards: Vec::new(), strays: Vec::new(), readable };
        if !cluster.citus {
            return Ok(relations);
        }
        for row in session.query(SHARDS, &[&target.oid]).await? {
            let groups: Vec<i32> = row.get::<_, Option<_>>("groups").unwrap_or_default();
            let active: Vec<bool> = row.get::<_, Option<_>>("active").unwrap_or_default();
            let placed = groups.into_iter().zip(active);
            relations.shards.push(Shard {
                id: row.get("shardid"),
                range: row.get::<_, Option<i64>>("low").zip(row.get("high")),
                placements: placed
                    .map(|(group, active)| Placement { group, active, relation: None })
                    .collect(),
            });
        }
        if relations.shards.is_empty() {
            return Ok(relations);
        }
        let ids: Vec<String> = relations.shards.iter().map(|shard| shard.id.to_string()).collect();
        let its_shards = format!(
            "c.relnamespace = to_regnamespace({schema})
             and substring(c.relname from '_([0-9]{{1,18}})$')::bigint = any(array[{ids}]::bigint[])",
            schema = quote_literal(&crate::postgres::quote_ident(
                target.name.schema.as_deref().unwrap_or("public")
            )),
            ids = ids.join(","),
        );
        for (id, answer) in cluster.ask(session, &facts(&its_shards, target)).await? {
            let (Ok(text), Some(node)) = (answer, cluster.of_id(id)) else { continue };
            for relation in read(&text)? {
                relations.place(relation, node.group, &node.name);
            }
        }
        if !relations.strays.is_empty() {
            for row in session.query("select object_name, node_group_id from pg_dist_cleanup", &[]).await? {
                let (table, group): (String, i32) = (row.get(0), row.get(1));
                let noted = |stray: &&mut Stray| stray.table == table && stray.group == group;
                relations.strays.iter_mut().filter(noted).for_each(|stray| stray.will_be_dropped = true);
            }
        }
        Ok(relations)
    }

    fn place(&mut self, relation: Relation, group: i32, node: &str) {
        let shard = self.shards.iter_mut().find(|shard| Some(shard.id) == relation.shard);
        let placement = shard.and_then(|shard| shard.placements.iter_mut().find(|it| it.group == group));
        match placement {
            Some(placement) => placement.relation = Some(relation),
            None => self.strays.push(Stray {
                table: relation.name,
                group,
                node: node.into(),
                will_be_dropped: false,
            }),
        }
    }

    /// Those that hold the rows.
    pub(super) fn holders(&self) -> impl Iterator<Item = &Relation> {
        let alone = self.shards.is_empty().then_some(&self.table);
        alone.into_iter().chain(self.shards.iter().filter_map(Shard::relation))
    }

    /// All copies of all shards that nodes have told of, with the shards' ids.
    pub(super) fn copies(&self) -> impl Iterator<Item = (i64, &Relation)> {
        self.shards.iter().flat_map(|shard| {
            shard.placements.iter().filter_map(|at| Some((shard.id, at.relation.as_ref()?)))
        })
    }

    /// Estimated rows, as far as relations were analyzed.
    pub(super) fn rows(&self) -> Option<i64> {
        let known: Vec<f64> = self.holders().filter_map(Relation::rows).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() as i64)
    }

    /// The commonest channels with their estimated rows, most first.
    pub(super) fn channels(&self) -> Vec<(String, f64)> {
        let mut rows: BTreeMap<&str, f64> = BTreeMap::new();
        for relation in self.holders() {
            for (channel, share) in &relation.channels {
                *rows.entry(channel).or_default() += share * relation.rows().unwrap_or(0.0);
            }
        }
        let mut channels: Vec<_> = rows.into_iter().map(|(channel, rows)| (channel.into(), rows)).collect();
        channels.sort_by(|(_, one): &(String, f64), (_, other)| other.total_cmp(one));
        channels
    }
}

/// A query that gives all relations that fulfil a condition, as one text.
fn facts(condition: &str, target: &Target) -> String {
    let channel = target.channel_column().map_or("null".into(), quote_literal);
    format!(
        "select coalesce(json_agg(json_build_object(
            'shard', substring(c.relname from '_([0-9]{{1,18}})$')::bigint,
            'name', format('%I.%I', n.nspname, c.relname),
            'rows', c.reltuples,
            'bytes', coalesce(pg_table_size(c.oid), 0),
            'indexes', (select coalesce(json_agg(json_build_object(
                    'name', x.relname,
                    'what', substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)'),
                    'valid', i.indisvalid and i.indisready and i.indislive,
                    'building', exists (select from pg_stat_progress_create_index b where b.relid = c.oid))
                    order by x.relname), '[]')
                from pg_index i join pg_class x on x.oid = i.indexrelid where i.indrelid = c.oid),
            'channels', (select coalesce(json_agg(json_build_array(v.value, v.share)), '[]')
                from (select v.* from pg_stats s,
                        unnest(s.most_common_vals::text::text[], s.most_common_freqs) as v(value, share)
                    where s.schemaname = n.nspname and s.tablename = c.relname
                        and s.attname = {channel} and not s.inherited
                    limit {CHANNELS_MAX}) v))), '[]')::text
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and {condition}"
    )
}

fn read(text: &str) -> Answer<Vec<Relation>> {
    Ok(serde_json::from_str(text)
        .map_err(|error| Error::bug("read what a node tells of its tables").because(error))?)
}
