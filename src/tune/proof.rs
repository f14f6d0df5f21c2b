//! What a new session finds, where the rows are.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use tokio_postgres::Client;

use super::PARAMETERS;
use crate::cluster::{self, Address, Node};
use crate::error::{Error, Result};
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::{pg_error, quote_ident};

/// Values tried as a channel: far more than there are nodes, so that each has one of them.
const CHANNELS_TRIED: i64 = 10_000;

/// A parameter and what it should be; `None` is not looked at.
pub type Wanted = (&'static str, Option<String>);

/// What a node works with.
#[derive(Debug, Serialize)]
pub struct NodeReport {
    /// The node; `None` is the one server there is.
    pub node: Option<Address>,
    /// `server`, `coordinator` or `worker`.
    pub role: &'static str,
    /// How it was found out: `session`, `shard` (a query that ran in a shard) or `connection` (to a node that has no
    /// shard of the table).
    pub by: &'static str,
    /// Each parameter's value.
    pub settings: BTreeMap<&'static str, Option<String>>,
    /// Why nothing is known.
    pub problem: Option<String>,
}

impl NodeReport {
    /// The first parameter that is not as it should be.
    pub fn first_difference(&self, wanted: &[Wanted]) -> Option<&'static str> {
        let differs = |(name, value): &&Wanted| {
            value.is_some() && self.settings.get(name).is_none_or(|found| found != value)
        };
        wanted.iter().find(differs).map(|(name, _)| *name)
    }
}

/// Asks a session, which should be a new one: the coordinator keeps connections to workers for its sessions, and with
/// them the settings of the time they were made.
pub async fn prove(
    client: &Client,
    versions: &ServerVersions,
    target: Option<&Target>,
) -> Result<Vec<NodeReport>> {
    let list = PARAMETERS.map(|name| format!("current_setting('{NAME}', true)", NAME = name)).join(", ");
    let here = client.query_one(&format!("select array[{list}]"), &[]).await;
    let here = here.map_err(|error| pg_error("ask for the settings", error))?;
    let here = report(None, "server", "session", Ok(here.get(0)));
    if versions.citus.is_none() {
        return Ok(vec![here]);
    }
    let nodes: Vec<Node> =
        cluster::nodes(client).await?.into_iter().filter(|node| node.is_primary && node.is_active).collect();
    let mut channels = match target {
        Some(target) => channels_of_groups(client, target).await?,
        None => HashMap::new(),
    };
    let mut reports = vec![NodeReport { role: "coordinator", ..here }];
    for node in &nodes {
        if node.is_coordinator() {
            reports[0].node = Some(node.address.clone());
            continue;
        }
        let (by, values) = match (target, channels.remove(&node.group)) {
            (Some(target), Some(channel)) => ("shard", in_shard(client, target, &channel, &list).await?),
            _ => {
                let sql = format!("select json_build_array({list})::text");
                let servers = std::slice::from_ref(&node.address);
                ("connection", cluster::ask_json(client, servers, &sql).await?.remove(0))
            }
        };
        reports.push(report(Some(node.address.clone()), "worker", by, values));
    }
    Ok(reports)
}

/// What else decides a parameter for this role, if anything does.
pub async fn why_not(client: &Client, name: &str) -> Result<Option<String>> {
    let sql = "select r.rolname::text, case when s.setdatabase <> 0 then current_database()::text end
        from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
        where r.rolname = current_user
            and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
            and exists (select from unnest(s.setconfig) as setting where split_part(setting, '=', 1) = $1)
        order by s.setdatabase desc limit 1";
    let row = client.query_opt(sql, &[&name]).await;
    let row = row.map_err(|error| pg_error("look at the role's settings", error))?;
    Ok(row.map(|row| {
        let role = quote_ident(&row.get::<_, String>(0));
        let database: Option<String> = row.get(1);
        let within = database.map_or(String::new(), |name| format!(" IN DATABASE {}", quote_ident(&name)));
        format!("the role's own setting comes first: ALTER ROLE {role}{within} RESET {name}")
    }))
}

fn report(
    node: Option<Address>,
    role: &'static str,
    by: &'static str,
    values: cluster::Answer<Vec<Option<String>>>,
) -> NodeReport {
    let problem = values.as_ref().err().cloned();
    let settings = PARAMETERS.into_iter().zip(values.unwrap_or_default()).collect();
    NodeReport { node, role, by, settings, problem }
}

/// For each group of nodes that has a shard of the table, a channel in it.
async fn channels_of_groups(client: &Client, target: &Target) -> Result<HashMap<i32, String>> {
    let (Some(_), Some(column)) =
        (&target.citus, target.channel_column().and_then(|name| target.column(name)))
    else {
        return Ok(HashMap::new());
    };
    let sql = format!(
        "select distinct on (p.groupid) p.groupid, channel::text from generate_series(1, {CHANNELS_TRIED}) as channel
        join pg_dist_placement p on p.shardid =
            get_shard_id_for_distribution_column($1::oid::regclass, channel::{})
        order by p.groupid, channel",
        column.type_name
    );
    let rows = client.query(&sql, &[&target.oid]).await;
    let rows = rows.map_err(|error| pg_error(format!("find shards of {}", target.name), error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs a query of one channel, which Citus hands to the worker as it stands. It reads at most one row, and has a
/// result without any.
async fn in_shard(
    client: &Client,
    target: &Target,
    channel: &str,
    list: &str,
) -> Result<cluster::Answer<Vec<Option<String>>>> {
    let Some(column) = target.channel_column() else {
        return Err(Error::bug("a shard without a channel"));
    };
    let sql = format!(
        "select array[{list}], count(*) from {} where {} = {channel} and ctid = '(0,1)'::tid",
        target.name.sql(),
        quote_ident(column)
    );
    match client.query_one(&sql, &[]).await {
        Ok(row) => Ok(Ok(row.get(0))),
        Err(error) if error.as_db_error().is_some() => Ok(Err(pg_error("ask in a shard", error).to_string())),
        Err(error) => Err(pg_error("ask in a shard", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_and_what_was_left_alone_is_not_looked_at() {
        let found =
            report(None, "server", "session", Ok(vec![Some("40".into()), None, Some("2".into()), None]));
        let wanted = |ef_search: Option<&str>| {
            vec![("hnsw.ef_search", ef_search.map(str::to_owned)), ("maintenance_work_mem", None)]
        };
        assert_eq!(found.first_difference(&wanted(Some("100"))), Some("hnsw.ef_search"));
        assert_eq!(found.first_difference(&wanted(Some("40"))), None);
        assert_eq!(
            found.first_difference(&[("hnsw.iterative_scan", Some("off".into()))]),
            Some("hnsw.iterative_scan")
        );
        let silent = report(None, "worker", "connection", Err("away".into()));
        assert_eq!(silent.first_difference(&wanted(Some("40"))), Some("hnsw.ef_search"));
        assert_eq!(silent.first_difference(&wanted(None)), None);
    }
}
