//! The servers that a table lives on: one, or the nodes of Citus, each asked what it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Answer, Check, counted, listed};
use crate::cluster::{OWN_GROUP_SQL, another_server};
use crate::postgres::Session;
use crate::postgres::catalog::ServerVersions;

/// A commit in two phases takes milliseconds; what stays prepared for longer is looked at.
const PREPARED_LOOK: Duration = Duration::from_secs(3);

/// Citus settles by itself, every minute by default (`citus.recover_2pc_interval`), what a broken commit has left.
const PREPARED_SECONDS_MAX: f64 = 120.0;

/// What every node tells of itself, as one text.
const FACTS: &str = "
    select json_build_object(
        'postgres', split_part(current_setting('server_version'), ' ', 1),
        'extensions', coalesce((select json_object_agg(extname, extversion) from pg_extension
            where extname in ('vector', 'citus')), '{}'),
        'libraries', coalesce((select json_object_agg(name, default_version) from pg_available_extensions
            where name in ('vector', 'citus')), '{}'))::text";

/// Transactions that Citus has prepared in this database and not yet ended.
const PREPARED: &str = "
    select coalesce(json_object_agg(gid, extract(epoch from clock_timestamp() - prepared)), '{}')::text
    from pg_prepared_xacts where gid like 'citus@_%' escape '@' and database = current_database()";

const NODES: &str = "
    select n.nodeid, n.groupid,
        case when n.nodename like '%:%' then '[' || n.nodename || ']' else n.nodename end
            || ':' || n.nodeport as name, n.isactive, n.shouldhaveshards,
        n.hasmetadata and n.metadatasynced as synced
    from pg_dist_node n where n.noderole = 'primary' order by n.groupid";

/// What a node tells of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Facts {
    /// PostgreSQL's version.
    pub postgres: String,
    /// Versions of the extensions in the database.
    pub extensions: BTreeMap<String, String>,
    /// Versions of the extensions as they are installed on the server.
    pub libraries: BTreeMap<String, String>,
}

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    id: i32,
    /// Its number in the map of shards.
    pub group: i32,
    /// How messages name it: host and port, as the cluster has them.
    pub name: String,
    is_active: bool,
    /// Whether shards may be put on it.
    pub takes_shards: bool,
    has_metadata: bool,
    /// What is wrong, if another server seems to be in its place.
    is_another: Option<String>,
    /// What it said, or why it said nothing.
    pub facts: Result<Facts, String>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Whether Citus is installed in the database.
    pub citus: bool,
    /// The servers; without Citus one.
    pub nodes: Vec<Node>,
    /// Whether the coordinator is among the nodes that Citus knows.
    has_coordinator: bool,
}

impl Cluster {
    /// Looks them up and asks each.
    pub(super) async fn find(session: &Session, server: &ServerVersions) -> Answer<Self> {
        let citus = server.citus.is_some();
        let mut cluster = Self { citus, nodes: Vec::new(), has_coordinator: true };
        if citus {
            for row in session.query(NODES, &[]).await? {
                cluster.nodes.push(Node {
                    id: row.get("nodeid"),
                    group: row.get("groupid"),
                    name: row.get("name"),
                    is_active: row.get("isactive"),
                    takes_shards: row.get("shouldhaveshards"),
                    has_metadata: row.get("synced"),
                    is_another: None,
                    facts: Err("it is not active, so Citus does not ask it".into()),
                });
            }
            cluster.has_coordinator = cluster.nodes.iter().any(|node| node.group == 0);
        }
        let answers = cluster.ask(session, FACTS).await?;
        for (id, answer) in answers {
            let read = |text: String| serde_json::from_str(&text).map_err(|error| error.to_string());
            let facts = answer.and_then(read);
            match cluster.nodes.iter_mut().find(|node| node.id == id) {
                Some(node) => node.facts = facts,
                // A server without Citus, or a coordinator that is not in the list of nodes.
                None => cluster.nodes.insert(
                    0,
                    Node {
                        id,
                        group: 0,
                        name: if citus { "the coordinator".into() } else { session.peer().into() },
                        is_active: true,
                        takes_shards: false,
                        has_metadata: true,
                        is_another: None,
                        facts,
                    },
                ),
            }
        }
        if citus {
            // What does not answer here is found by other checks.
            for (id, answer) in cluster.ask(session, OWN_GROUP_SQL).await? {
                let node = cluster.nodes.iter_mut().find(|node| node.id == id);
                let (Some(node), Ok(own)) = (node, answer) else { continue };
                node.is_another = another_server(node.group, &own);
            }
        }
        Ok(cluster)
    }

    /// Runs a query that gives one text on every active node; the answers by node.
    pub(super) async fn ask(
        &self,
        session: &Session,
        sql: &str,
    ) -> Result<BTreeMap<i32, Result<String, String>>, tokio_postgres::Error> {
        if !self.citus {
            return Ok(BTreeMap::from([(0, Ok(session.query_one(sql, &[]).await?.get(0)))]));
        }
        let all = "select nodeid, success, result from run_command_on_all_nodes($1)";
        let answers = session.query(all, &[&sql]).await?;
        let answer = |row: &tokio_postgres::Row| {
            let text = row.get::<_, Option<String>>(2).unwrap_or_default();
            (row.get(0), if row.get(1) { Ok(text) } else { Err(text) })
        };
        Ok(answers.iter().map(answer).collect())
    }

    /// The node of a number in the map of shards.
    pub(super) fn of_group(&self, group: i32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.group == group)
    }

    /// The node that gave an answer.
    pub(super) fn of_id(&self, id: i32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// A node that does not answer, if there is one.
    pub(super) fn silent(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.facts.is_err())
    }

    fn is_worker(&self, node: &Node) -> bool {
        node.group != 0
    }

    /// Whether there are servers besides the coordinator.
    pub(super) fn has_workers(&self) -> bool {
        self.nodes.iter().any(|node| self.is_worker(node))
    }

    /// What the nodes are to the cluster.
    pub(super) fn checks(&self) -> [Check; 2] {
        let workers = self.nodes.iter().filter(|node| self.is_worker(node)).count();
        let answering = self.nodes.iter().filter(|node| node.facts.is_ok()).count();
        let workers_found = counted(workers as i64, "worker", "workers");
        let found = format!("{workers_found}; {answering} of {} nodes answer", self.nodes.len());
        let mut check = Check::pass("nodes", found);
        if !self.has_coordinator {
            check.fail(
                "the coordinator is not registered: moves of shards, and TRUNCATE from a worker, fail without its \
                 address",
                "on the coordinator: select citus_set_coordinator_host('HOST', PORT), as the workers reach it",
            );
        }
        if workers == 0 {
            check.warn(
                "there are no workers: the coordinator does all work",
                "vecload cluster add HOST:PORT for each",
            );
        }
        for node in &self.nodes {
            let Err(why) = &node.facts else { continue };
            match node.is_active {
                true => check.fail(
                    format!("{} does not answer: {why}", node.name),
                    "start the node and mend its network, then run vecload verify again",
                ),
                false => check.fail(
                    format!("{} is not active", node.name),
                    format!("when it is back: vecload cluster add {}", node.name),
                ),
            }
        }
        let without: Vec<&str> = self
            .nodes
            .iter()
            .filter(|node| !node.has_metadata && node.is_active)
            .map(|node| node.name.as_str())
            .collect();
        let mut metadata = Check::pass("metadata", "every node knows the cluster");
        if !without.is_empty() {
            metadata.found = format!("not synced to {}", listed(&without));
            metadata.fail(
                "a node that does not know the cluster's tables can't take queries, and its map of shards is old",
                "on the coordinator: select start_metadata_sync_to_all_nodes()",
            );
        }
        // A node to which nothing was synced has no number yet.
        for node in self.nodes.iter().filter(|node| node.has_metadata) {
            let Some(why) = &node.is_another else { continue };
            metadata.found = "a node is not the one that was added".into();
            metadata.fail(
                format!("{}: {why}", node.name),
                format!(
                    "restore its data; or, if they can't be had again, drop the tables with shards there (vecload \
                     cluster remove {0} names them), then vecload cluster remove {0} and vecload cluster add {0}",
                    node.name
                ),
            );
        }
        [check, metadata]
    }
}

/// Whether each node reaches each.
pub(super) async fn network(session: &Session, cluster: &Cluster) -> Answer<Check> {
    if let Some(node) = cluster.silent() {
        return Ok(Check::skip("network", format!("{} does not answer", node.name)));
    }
    let pairs = session
        .query(
            "select from_nodename || ':' || from_nodeport || ' to ' || to_nodename || ':' || to_nodeport, result
             from citus_check_cluster_node_health()",
            &[],
        )
        .await?;
    let broken: Vec<String> = pairs
        .iter()
        .filter(|row| row.get::<_, Option<bool>>(1) != Some(true))
        .map(|row| row.get(0))
        .collect();
    let mut check =
        Check::pass("network", format!("{} of {} ways are open", pairs.len() - broken.len(), pairs.len()));
    if !broken.is_empty() {
        check.fail(
            format!("no connection from {}", listed(&broken)),
            "open the network between the nodes both ways, and let each log in to each (pg_hba.conf, \
             citus.node_conninfo, passwords in pg_dist_authinfo or .pgpass)",
        );
    }
    Ok(check)
}

/// Whether a commit in two phases was left half done.
pub(super) async fn prepared(session: &Session, cluster: &Cluster) -> Answer<Check> {
    let first = left(session, cluster).await?;
    if first.is_empty() {
        return Ok(judge_prepared(&first));
    }
    tokio::time::sleep(PREPARED_LOOK).await;
    let mut still = left(session, cluster).await?;
    still.retain(|name, _| first.contains_key(name));
    Ok(judge_prepared(&still))
}

/// Transactions that are prepared on nodes that answer, and their ages in seconds.
async fn left(session: &Session, cluster: &Cluster) -> Answer<BTreeMap<String, f64>> {
    let mut left = BTreeMap::new();
    for (id, answer) in cluster.ask(session, PREPARED).await? {
        let Ok(text) = answer else { continue };
        let of_node: BTreeMap<String, f64> = serde_json::from_str(&text)
            .map_err(|error| crate::error::Error::bug("read what is prepared").because(error))?;
        let name = cluster.of_id(id).map_or("a node", |node| &node.name);
        left.extend(of_node.into_iter().map(|(gid, age)| (format!("{gid} on {name}"), age)));
    }
    Ok(left)
}

fn judge_prepared(left: &BTreeMap<String, f64>) -> Check {
    if left.is_empty() {
        return Check::pass("prepared", "no transaction is left half committed");
    }
    let names: Vec<&String> = left.keys().collect();
    let oldest = left.values().copied().fold(0.0, f64::max);
    let mut check = Check::pass(
        "prepared",
        format!("{} left, the oldest for {oldest:.0} s: {}", left.len(), listed(&names)),
    );
    let cause = "a commit was broken off: its rows are not to be seen, and hold locks and keys";
    let cure = "on the coordinator: select recover_prepared_transactions(); what stays was prepared by a node that \
                the cluster does not know any more: commit prepared or rollback prepared, by hand, on its node";
    match oldest > PREPARED_SECONDS_MAX {
        true => check.fail(cause, cure),
        false => check.warn(format!("{cause}; Citus settles it within minutes"), cure),
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn what_citus_had_time_to_settle_is_a_failure() {
        let left = |age| BTreeMap::from([("citus_0_1_2_3 on a:1".to_string(), age)]);
        assert_eq!(judge_prepared(&BTreeMap::new()).outcome, Outcome::Pass);
        assert_eq!(judge_prepared(&left(5.0)).outcome, Outcome::Warn);
        assert_eq!(judge_prepared(&left(500.0)).outcome, Outcome::Fail);
        assert!(judge_prepared(&left(5.0)).found.contains("citus_0_1_2_3 on a:1"));
    }
}
