//! The shards of a distributed table: which channel hashes each holds, and on which node.

use std::collections::HashMap;

use tokio_postgres::{Client, Row};

use crate::error::{Error, Result};
use crate::partition::Partitions;
use crate::partition::hash::hash_int8;
use crate::postgres::pg_error;

/// Channels that are tried until each shard has one. Of very many shards, or very narrow ones (an isolated tenant's
/// holds one hash), some may be left without.
const CHANNELS_TRIED: i64 = 1 << 22;

/// Blocks that are open at a time for rows that the coordinator hands on, at most, or one for each node.
const PLACES_MAX: usize = 64;

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Citus's number for it and its standbys.
    pub group: i32,
    /// Host, as the coordinator knows it.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it is the node vecload is connected to.
    pub is_here: bool,
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub id: i64,
    /// Its table's name on the node, in the schema of the distributed table.
    pub table: String,
    /// Its lowest hash.
    pub low: i32,
    /// Its highest hash.
    pub high: i32,
    /// Index of its node.
    pub node: usize,
    /// How many nodes hold it.
    pub placements: i64,
}

/// All shards of a table, by their hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// Ascending, without gap or overlap.
    pub shards: Vec<Shard>,
    /// The nodes that hold them.
    pub nodes: Vec<Node>,
}

impl ShardMap {
    /// Reads the maps of tables from Citus's metadata.
    pub async fn read<const TABLES: usize>(client: &Client, tables: [u32; TABLES]) -> Result<[Self; TABLES]> {
        let sql = "select distinct on (s.shardid) s.shardid, s.logicalrelid::oid as of_table,
                (select parts[cardinality(parts)] from parse_ident(shard_name(s.logicalrelid, s.shardid)) parts)
                    as shard_table, s.shardminvalue::integer as low,
                s.shardmaxvalue::integer as high, n.groupid, n.nodename, n.nodeport,
                count(*) over (partition by s.shardid) as placements,
                n.groupid = (select groupid from pg_dist_local_group) as is_here
            from pg_dist_shard s join pg_dist_placement p using (shardid)
            join pg_dist_node n on n.groupid = p.groupid and n.noderole = 'primary'
            where s.logicalrelid = any($1::oid[]::regclass[]) order by s.shardid, n.groupid";
        let rows = client.query(sql, &[&tables.as_slice()]).await;
        let rows = rows.map_err(|error| pg_error("read the cluster's map of shards", error))?;
        let mut maps = tables.map(|_table| Self { shards: Vec::new(), nodes: Vec::new() });
        for (map, table) in maps.iter_mut().zip(tables) {
            *map = Self::of(rows.iter().filter(|row| row.get::<_, u32>("of_table") == table))?;
        }
        Ok(maps)
    }

    fn of<'rows>(rows: impl Iterator<Item = &'rows Row>) -> Result<Self> {
        let mut map = Self { shards: Vec::new(), nodes: Vec::new() };
        for row in rows {
            let group = row.get("groupid");
            let known = map.nodes.iter().position(|node| node.group == group);
            let node = known.unwrap_or(map.nodes.len());
            if known.is_none() {
                map.nodes.push(Node {
                    group,
                    host: row.get("nodename"),
                    port: row.get::<_, i32>("nodeport") as u16,
                    is_here: row.get("is_here"),
                });
            }
            map.shards.push(Shard {
                id: row.get("shardid"),
                table: row.get("shard_table"),
                low: row.get("low"),
                high: row.get("high"),
                node,
                placements: row.get("placements"),
            });
        }
        map.shards.sort_by_key(|shard| shard.low);
        let mut next = i64::from(i32::MIN);
        for shard in &map.shards {
            if i64::from(shard.low) != next {
                return Err(Error::failed(format!(
                    "the shards' hash ranges have a gap or overlap at {next}: a split or move is under way"
                ))
                .hint("wait until it is done, then run the same command again")
                .misrouted());
            }
            next = i64::from(shard.high) + 1;
        }
        match next == i64::from(i32::MAX) + 1 {
            true => Ok(map),
            false => Err(Error::failed("the table's shards do not cover all hashes")
                .hint("a shard has no placement on an active node: vecload verify")),
        }
    }

    /// The hash ranges of the shards, in their order.
    pub fn partitions(&self) -> Result<Partitions> {
        let lows = self.shards.iter().map(|shard| shard.low).collect();
        Partitions::from_lows(lows).ok_or_else(|| Error::bug("a map of shards that covers too little"))
    }

    /// For each shard a channel that it holds, if one is found.
    ///
    /// `highest` is the highest value of the channel's type.
    pub fn channels(&self, highest: i64) -> Result<Vec<Option<i64>>> {
        let partitions = self.partitions()?;
        let mut channels = vec![None; self.shards.len()];
        let mut missing = channels.len();
        // 0, -1, 1, -2, …
        let channels_in_turn = (0..=highest.min(CHANNELS_TRIED)).flat_map(|channel| [channel, !channel]);
        for channel in channels_in_turn {
            if missing == 0 {
                break;
            }
            let found = &mut channels[partitions.of(hash_int8(channel))];
            missing -= usize::from(found.is_none());
            found.get_or_insert(channel);
        }
        Ok(channels)
    }

    /// The place of each shard in blocks that go through the coordinator: one for itself, so that Citus sends a COPY's
    /// rows on as they come, over one connection and with a commit of one node; where there are too many shards, one
    /// for a few of the same node.
    pub fn places(&self) -> Vec<usize> {
        let nodes = 1 + self.shards.iter().map(|shard| shard.node).max().unwrap_or(0);
        let together = self.shards.len().div_ceil(PLACES_MAX.saturating_sub(nodes).max(1));
        let mut seen = vec![0; nodes];
        let mut places = HashMap::new();
        let place = |shard: &Shard| {
            let group = (shard.node, seen[shard.node] / together);
            seen[shard.node] += 1;
            let next = places.len();
            *places.entry(group).or_insert(next)
        };
        self.shards.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(count: i64) -> ShardMap {
        let width = (1i64 << 32) / count;
        let low = |index: i64| i64::from(i32::MIN) + index * width;
        let shard = |index: i64| Shard {
            id: 102_008 + index,
            table: String::new(),
            low: low(index) as i32,
            high: if index + 1 == count { i32::MAX } else { (low(index + 1) - 1) as i32 },
            node: 0,
            placements: 1,
        };
        ShardMap { shards: (0..count).map(shard).collect(), nodes: Vec::new() }
    }

    #[test]
    fn each_shard_has_a_channel_of_its_own() {
        for count in [1, 2, 32, 500] {
            let map = even(count);
            let channels = map.channels(i64::MAX).unwrap();
            for (shard, channel) in map.shards.iter().zip(channels) {
                let hash = hash_int8(channel.expect("a channel for each of few shards"));
                assert!((shard.low..=shard.high).contains(&hash), "{shard:?}");
            }
        }
    }

    #[test]
    fn shards_have_places_of_their_own_while_they_are_few() {
        assert_eq!(even(32).places(), (0..32).collect::<Vec<_>>());
        for (count, nodes) in [(64, 3), (500, 3), (1024, 32), (128, 100)] {
            let mut map = even(count);
            for (index, shard) in map.shards.iter_mut().enumerate() {
                shard.node = index % nodes;
            }
            let places = map.places();
            let count = 1 + places.iter().max().expect("places");
            assert!(count <= PLACES_MAX.max(nodes), "{count}");
            for place in 0..count {
                let of = map.shards.iter().zip(&places).filter(|(_, of)| **of == place);
                let nodes: std::collections::HashSet<_> = of.map(|(shard, _)| shard.node).collect();
                assert_eq!(nodes.len(), 1, "place {place}");
            }
        }
    }

    #[test]
    fn a_shard_of_one_hash_may_have_none() {
        let mut map = even(2);
        // Of 2^32 hashes few have a channel among those that are tried.
        let lone = -272_711_506;
        let first = map.shards[0].clone();
        map.shards[0].high = lone - 1;
        map.shards.insert(1, Shard { id: 1, low: lone, high: lone, ..first.clone() });
        map.shards.insert(2, Shard { id: 2, low: lone + 1, high: first.high, ..first });
        let channels = map.channels(i64::MAX).unwrap();
        assert_eq!(channels.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
    }
}
