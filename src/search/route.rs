//! Which shards a search asks, and on which nodes they are.

use serde::Serialize;

use crate::error::Result;
use crate::postgres::catalog::Target;
use crate::postgres::{Session, pg_error};

/// The way of a search through a Citus cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Shards that are asked.
    pub shards: usize,
    /// Shards that the table has.
    pub of: usize,
    /// The nodes that hold those asked, as `host:port`.
    pub nodes: Vec<String>,
    /// The shard's table, if it is one.
    pub shard: Option<String>,
    /// Shards that were asked before for the row whose neighbours are sought.
    pub lookup_shards: usize,
}

impl Route {
    /// Looks up where a search in a channel, or in all, goes; `None` if the target is not distributed.
    pub(super) async fn of(session: &Session, target: &Target, channel: Option<i64>) -> Result<Option<Self>> {
        if target.citus.is_none() {
            return Ok(None);
        }
        // Integers of equal value hash alike, whatever their size.
        let rows = session
            .query(
                "select s.shardid, shard_name(s.logicalrelid, s.shardid), n.nodename || ':' || n.nodeport,
                        $2::bigint is null or worker_hash($2::bigint)
                            between s.shardminvalue::int and s.shardmaxvalue::int
                 from pg_dist_shard s join pg_dist_placement p using (shardid)
                 join pg_dist_node n on n.groupid = p.groupid and n.noderole = 'primary'
                 where s.logicalrelid = $1::oid order by 1, 3",
                &[&target.oid, &channel],
            )
            .await
            .map_err(|error| pg_error(format!("look up the shards of {}", target.name), error))?;
        let (mut all, mut asked, mut nodes) = (Vec::<i64>::new(), Vec::<(i64, String)>::new(), Vec::new());
        for row in rows {
            all.push(row.get(0));
            if row.get(3) {
                asked.push((row.get(0), row.get(1)));
                nodes.push(row.get(2));
            }
        }
        // A shard may be on several nodes.
        all.dedup();
        asked.dedup();
        nodes.sort();
        nodes.dedup();
        let shard = match &asked[..] {
            [(_, name)] => Some(name.clone()),
            _ => None,
        };
        Ok(Some(Self { shards: asked.len(), of: all.len(), nodes, shard, lookup_shards: 0 }))
    }
}
