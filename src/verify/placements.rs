//! How Citus has spread the table: distribution, shards, placements, balance between nodes, skew between shards.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::relations::{Relations, Shard};
use super::{Answer, Check, counted, listed};
use crate::postgres::catalog::Target;
use crate::postgres::{Session, quote_literal};

/// A shard this many times as large as the average is worth a word.
const SKEW_MAX: f64 = 3.0;

/// Smaller shards are no burden, however they compare, in bytes.
const SKEW_BYTES_MIN: i64 = 1 << 20;

/// Channels that are named, and the least share of all rows that makes one hot.
const HOT_SHOWN: usize = 3;
const HOT_SHARE_MIN: f64 = 0.02;

/// Whether the table is distributed, and by its channels.
pub(super) async fn distribution(session: &Session, cluster: &Cluster, target: &Target) -> Answer<Check> {
    let row = session
        .query_opt(
            "select partmethod::text as method, colocationid, repmodel::text as replication,
                 (select count(*) from pg_dist_partition o where o.colocationid = p.colocationid) as together
             from pg_dist_partition p where logicalrelid = $1::oid",
            &[&target.oid],
        )
        .await?;
    let table = quote_literal(&target.name.sql());
    let column = match target.column("channel_id") {
        Some(_) => "'channel_id'",
        None => "COLUMN",
    };
    let distribute = format!("select create_distributed_table({table}, {column})");
    let Some(row) = row else {
        let mut check = Check::pass("distribution", format!("{} is not distributed", target.name));
        let cause = "all its rows are on this server alone";
        let cure = format!("{distribute}: it moves the rows, and needs the column in every unique key");
        match cluster.has_workers() {
            true => check.fail(cause, cure),
            false => check.warn(cause, cure),
        }
        return Ok(check);
    };
    let Some(citus) = &target.citus else {
        let what = match (row.get("method"), row.get("replication")) {
            ("n", "t") => "a reference table: every node holds all of its rows",
            ("n", _) => "a table of one shard: one node holds all of its rows",
            _ => "distributed by append or range, not by hash",
        };
        let mut check = Check::pass("distribution", what);
        check.fail(
            "channels are not spread over the nodes",
            format!("select undistribute_table({table}), then {distribute}"),
        );
        return Ok(check);
    };
    let together: i64 = row.get("together");
    let with = match together {
        1 => String::new(),
        _ => format!(", co-located with {}", together - 1),
    };
    let mut check = Check::pass("distribution", format!("by {}{with}", citus.column));
    if citus.column != "channel_id" && target.column("channel_id").is_some() {
        check.warn(
            format!("it is distributed by {}, so a search in one channel asks every shard", citus.column),
            format!("select alter_distributed_table({}, distribution_column => 'channel_id')", table),
        );
    }
    Ok(check)
}

/// Shards, placements, balance and skew of a table that is distributed by hash.
pub(super) fn checks(cluster: &Cluster, target: &Target, relations: &Relations) -> [Check; 4] {
    [
        shards(target, relations),
        placements(cluster, relations),
        balance(cluster, relations),
        skew(cluster, target, relations),
    ]
}

fn shards(target: &Target, relations: &Relations) -> Check {
    let shards = &relations.shards;
    // That a shard has none at all is for the check of placements to say.
    let copies = shards.iter().map(|shard| shard.placements.len()).filter(|copies| *copies > 0);
    let copies: Vec<usize> = copies.collect();
    let (least, most) = (copies.iter().min().unwrap_or(&0), copies.iter().max().unwrap_or(&0));
    let factor = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let mut check = Check::pass("shards", format!("{} shards, replication factor {factor}", shards.len()));
    if least != most {
        check.fail(
            "some shards have fewer copies than others",
            format!("select replicate_table_shards({}, {most})", quote_literal(&target.name.sql())),
        );
    }
    let ranges: Vec<(i64, i64)> = shards.iter().filter_map(|shard| shard.range).collect();
    let (first, last) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let whole = ranges.first().is_some_and(|(low, _)| *low == first)
        && ranges.last().is_some_and(|(_, high)| *high == last)
        && ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0);
    if !whole {
        check.fail(
            "the shards' ranges of hashes have gaps or overlap: some channels have no shard, or two",
            "pg_dist_shard was changed by hand: restore it from a backup of the coordinator",
        );
    }
    check
}

fn placements(cluster: &Cluster, relations: &Relations) -> Check {
    let all = || relations.shards.iter().flat_map(|shard| shard.placements.iter().map(move |at| (shard, at)));
    let mut check =
        Check::pass("placements", format!("{} active", all().filter(|(_, at)| at.active).count()));
    let node = |group: i32| cluster.of_group(group).map_or("a node that was removed", |node| &node.name);
    let mut unplaced = Vec::new();
    let mut inactive = Vec::new();
    let mut gone = Vec::new();
    let mut unknown = 0;
    for shard in relations.shards.iter().filter(|shard| shard.placements.is_empty()) {
        unplaced.push(shard.id.to_string());
    }
    for (shard, at) in all() {
        let name = format!("{} on {}", shard.id, node(at.group));
        match cluster.of_group(at.group) {
            None => unplaced.push(name),
            Some(_) if !at.active => inactive.push(name),
            Some(node) if node.facts.is_err() => unknown += 1,
            Some(_) if at.relation.is_none() => gone.push(name),
            Some(_) => {}
        }
    }
    if !unplaced.is_empty() {
        check.fail(
            format!(
                "no node holds shard {}: its placement was deleted by hand, or by what manages the cluster's members",
                listed(&unplaced)
            ),
            "bring the worker's data back, or make the table anew and load again",
        );
    }
    if !inactive.is_empty() {
        check.fail(
            format!("not active: shard {}", listed(&inactive)),
            "vecload cluster add HOST:PORT makes a node active again that is back; or, from a good copy, \
             citus_copy_shard_placement",
        );
    }
    if !gone.is_empty() {
        check.fail(
            format!("the table of the shard is gone: {}", listed(&gone)),
            "it was dropped on the worker, or the worker's data were lost: restore that node, or make the table anew \
             and load again",
        );
    }
    if unknown > 0 {
        check.warn(
            format!(
                "{} on nodes that do not answer, and not looked at",
                counted(unknown, "shard is", "shards are")
            ),
            "start the nodes, then run vecload verify again",
        );
    }
    let (noted, orphans): (Vec<_>, Vec<_>) = relations.strays.iter().partition(|stray| stray.will_be_dropped);
    if !noted.is_empty() {
        check.found.push_str(&format!("; Citus has yet to drop {} that moved", noted.len()));
    }
    if !orphans.is_empty() {
        let names: Vec<String> =
            orphans.iter().map(|stray| format!("{} on {}", stray.table, stray.node)).collect();
        check.warn(
            format!("tables of shards that are elsewhere by now: {}", listed(&names)),
            "what a failed move has left takes room and is not read: on its node, set \
             citus.enable_manual_changes_to_shards = on; drop table NAME",
        );
    }
    check
}

fn balance(cluster: &Cluster, relations: &Relations) -> Check {
    // A coordinator takes none by default, and that is no imbalance.
    let mut counts: BTreeMap<i32, (usize, i64)> =
        cluster.nodes.iter().filter(|node| node.takes_shards).map(|node| (node.group, (0, 0))).collect();
    for at in relations.shards.iter().flat_map(|shard| &shard.placements) {
        let (count, bytes) = counts.entry(at.group).or_default();
        *count += 1;
        *bytes += at.relation.as_ref().map_or(0, |relation| relation.bytes);
    }
    let shown: Vec<String> = counts
        .iter()
        .map(|(group, (count, bytes))| {
            let name = cluster.of_group(*group).map_or("a removed node", |node| &node.name);
            format!("{name} {count} ({})", size(*bytes))
        })
        .collect();
    let mut check = Check::pass("balance", format!("shards per node: {}", shown.join(", ")));
    let (least, most) = (
        counts.values().map(|(count, _)| *count).min().unwrap_or(0),
        counts.values().map(|(count, _)| *count).max().unwrap_or(0),
    );
    if most > least + 1 {
        // Citus goes by size, and may be content with this.
        check.warn(
            format!(
                "one node has {most} shards and another {least}: the first is asked more, and fills sooner"
            ),
            "vecload cluster rebalance; it goes by the sizes of shards, and may find nothing to move",
        );
    }
    check
}

fn skew(cluster: &Cluster, target: &Target, relations: &Relations) -> Check {
    let known: Vec<(&Shard, i64)> = relations
        .shards
        .iter()
        .filter_map(|shard| shard.relation().map(|relation| (shard, relation.bytes)))
        .collect();
    let Some((largest, bytes)) = known.iter().max_by_key(|(_, bytes)| *bytes) else {
        return Check::skip("skew", "no node tells the size of its shards");
    };
    let average = known.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / known.len() as f64;
    let ratio = *bytes as f64 / average.max(1.0);
    let hot = hot_channels(relations);
    let mut estimate = match hot.is_empty() {
        true => String::new(),
        false => format!("; most rows (estimated): {}", hot.join(", ")),
    };
    let unknown = relations.holders().filter(|shard| shard.rows().is_none() && shard.bytes > 0).count();
    if unknown > 0 {
        let shards = counted(unknown as i64, "shard has", "shards have");
        estimate.push_str(&format!("; {shards} no statistics yet (analyze {})", target.name));
    }
    let mut check = Check::pass(
        "skew",
        format!("the largest shard has {}, {ratio:.1} × the average{estimate}", size(*bytes)),
    );
    if ratio > SKEW_MAX && *bytes >= SKEW_BYTES_MIN {
        let node = largest
            .placements
            .first()
            .and_then(|at| cluster.of_group(at.group))
            .map_or("its node", |node| &node.name);
        let table = quote_literal(&target.name.sql());
        check.warn(
            format!(
                "shard {} on {node} is much larger than the others: a few channels have most rows",
                largest.id
            ),
            format!(
                "give a hot channel a shard of its own: select isolate_tenant_to_new_shard({table}, CHANNEL, \
                 'CASCADE'), then rebalance by size; a channel itself can't be divided"
            ),
        );
    }
    check
}

/// The channels with most rows, with their share of all.
fn hot_channels(relations: &Relations) -> Vec<String> {
    let all = relations.rows().unwrap_or(0) as f64;
    let channels = relations.channels().into_iter().take(HOT_SHOWN);
    channels
        .filter(|(_, rows)| *rows >= HOT_SHARE_MIN * all)
        .map(|(channel, rows)| format!("channel {channel} {:.0} %", 100.0 * rows / all))
        .collect()
}

/// Bytes for people: 512 KiB, 3.4 GiB.
fn size(bytes: i64) -> String {
    indicatif::BinaryBytes(bytes.unsigned_abs()).to_string()
}
