//! Transactions that Citus has prepared on its nodes and not yet committed or rolled back.
//!
//! The coordinator's own commit decides; what it has decided reaches a node that was away only later (Citus
//! documentation, `recover_prepared_transactions`). Until then rows of committed blocks are not to be seen, and rows
//! of rolled back ones hold their keys.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// Citus recovers by itself every minute (`citus.recover_2pc_interval`).
const RECOVERY_MAX: Duration = Duration::from_secs(90);

const LEFT: &str =
    "select coalesce(n.nodename || ':' || n.nodeport, 'of the coordinator'), r.success, r.result
    from run_command_on_all_nodes(
        $$select coalesce(string_agg(gid, ' '), '') from pg_prepared_xacts
          where gid like 'citus@_%' escape '@' and database = current_database()$$) r
    left join pg_dist_node n on n.nodeid = r.nodeid";

/// Waits until what is prepared on any node now is committed or rolled back.
pub async fn settle<C: GenericClient>(client: &C) -> Result<()> {
    let failed = |error| pg_error("settle transactions that Citus has prepared", error);
    let started = Instant::now();
    let mut open: Option<BTreeSet<String>> = None;
    loop {
        let mut now = BTreeSet::new();
        for node in client.query(LEFT, &[]).await.map_err(failed)? {
            let (name, success, result): (String, bool, String) = (node.get(0), node.get(1), node.get(2));
            if !success {
                return Err(Error::failed(format!(
                    "node {name} can't be asked for prepared transactions: {result}"
                ))
                .hint("bring the node back, then run the same command again")
                .transient());
            }
            now.extend(result.split_whitespace().map(|gid| format!("{name} {gid}")));
        }
        // Other sessions prepare and commit all the time: only what was there at first is waited for.
        let left: BTreeSet<String> = match &open {
            None => now,
            Some(open) => open.intersection(&now).cloned().collect(),
        };
        match left.first() {
            None => return Ok(()),
            Some(first) if started.elapsed() > RECOVERY_MAX => {
                return Err(Error::failed(format!("a transaction stays prepared: {first}"))
                    .hint("as a superuser on the coordinator: select recover_prepared_transactions()"));
            }
            Some(_) => {}
        }
        if open.replace(left).is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Without the right to hurry it, it is waited for. Asked first: a refusal would end a transaction.
        let may = "select has_function_privilege('recover_prepared_transactions()', 'execute')";
        if client.query_one(may, &[]).await.map_err(failed)?.get(0) {
            client.query("select recover_prepared_transactions()", &[]).await.map_err(failed)?;
        }
    }
}
