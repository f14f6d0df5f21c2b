//! What the servers say of their memory and cores, and the values that follow.

use std::collections::HashMap;

use serde::Deserialize;
use tokio_postgres::Client;

use super::memory;
use crate::cluster::{self, Address, Node};
use crate::error::{Error, Result};
use crate::postgres::catalog::ServerVersions;
use crate::postgres::pg_error;

/// More workers for one query help little, and leave nothing to others.
const PARALLEL_PER_QUERY_MAX: u32 = 4;

/// The servers that hold rows.
#[derive(Debug)]
pub(super) struct Servers {
    settings: Vec<Settings>,
    machines: Vec<Option<Machine>>,
    /// Shards of one table on one node that are worked on at a time; 1 without Citus.
    shards_at_once: u64,
}

/// What anybody may ask.
#[derive(Debug, Clone, Deserialize)]
struct Settings {
    shared_buffers: u64,
    /// In bytes, if somebody has set it.
    effective_cache: Option<u64>,
    /// `maintenance_work_mem` in bytes, if it is set for the whole server.
    maintenance: Option<u64>,
}

/// What a superuser may read, or a member of `pg_read_server_files`.
#[derive(Debug, Clone, Deserialize)]
struct MachineFiles {
    meminfo: Option<String>,
    limit: Option<String>,
    limit_v1: Option<String>,
    online: Option<String>,
    quota: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    memory: u64,
    cores: Option<u32>,
}

/// Settings of the server itself: those of a database or role, which tune makes, say nothing of it.
const SETTINGS_SQL: &str = "select json_build_object(
    'shared_buffers', pg_size_bytes(current_setting('shared_buffers')),
    'effective_cache', (select pg_size_bytes(current_setting(name)) from pg_settings
        where name = 'effective_cache_size' and source in ('configuration file', 'command line')),
    'maintenance', (select pg_size_bytes(current_setting(name)) from pg_settings
        where name = 'maintenance_work_mem' and source in ('configuration file', 'command line')))::text";

const MACHINE_SQL: &str = "select json_build_object(
    'meminfo', pg_read_file('/proc/meminfo', 0, 4096, true),
    'limit', pg_read_file('/sys/fs/cgroup/memory.max', 0, 100, true),
    'limit_v1', pg_read_file('/sys/fs/cgroup/memory/memory.limit_in_bytes', 0, 100, true),
    'online', pg_read_file('/sys/devices/system/cpu/online', 0, 1000, true),
    'quota', pg_read_file('/sys/fs/cgroup/cpu.max', 0, 100, true))::text";

impl Servers {
    /// Asks the server, or on Citus every node that shards may be on.
    pub(super) async fn look(client: &Client, versions: &ServerVersions) -> Result<Self> {
        let nodes = match versions.citus {
            Some(_) => nodes_with_rows(client).await?,
            None => Vec::new(),
        };
        if nodes.is_empty() {
            let settings = cluster::ask_here(client, SETTINGS_SQL).await?;
            let settings =
                settings.map_err(|problem| Error::failed(format!("look at the settings: {problem}")))?;
            let machine = cluster::ask_here::<MachineFiles>(client, MACHINE_SQL).await?.ok();
            let machine = machine.and_then(|files| files.machine(1));
            return Ok(Self { settings: vec![settings], machines: vec![machine], shards_at_once: 1 });
        }
        let mut settings = Vec::new();
        for (node, answer) in nodes.iter().zip(cluster::ask_json(client, &nodes, SETTINGS_SQL).await?) {
            settings.push(answer.map_err(|problem| {
                Error::refused(format!("node {node} can't be asked: {problem}"))
                    .hint("bring it back first: settings are the same on all nodes, or searches differ")
            })?);
        }
        // Nodes on one host share its memory.
        let mut on_host: HashMap<&str, u64> = HashMap::new();
        for node in &nodes {
            *on_host.entry(&node.host).or_default() += 1;
        }
        let files = cluster::ask_json::<MachineFiles>(client, &nodes, MACHINE_SQL).await?;
        let machines = nodes.iter().zip(files);
        let machines = machines.map(|(node, files)| files.ok()?.machine(on_host[node.host.as_str()]));
        Ok(Self { settings, machines: machines.collect(), shards_at_once: shards_at_once(client).await? })
    }

    /// `max_parallel_workers_per_gather`, and by which rule.
    pub(super) fn parallel(&self, wish: Option<u32>) -> (Option<u32>, String) {
        if let Some(workers) = wish {
            return (Some(workers), "as given".into());
        }
        let cores = self.machines.iter().map(|machine| machine.as_ref().and_then(|machine| machine.cores));
        let Some(cores) = cores.collect::<Option<Vec<_>>>().and_then(|cores| cores.into_iter().min()) else {
            return (None, "the server's cores are not known to this role: give --parallel".into());
        };
        let at_once = u32::try_from(self.shards_at_once).unwrap_or(u32::MAX).max(1);
        let workers = (cores / 2 / at_once).min(PARALLEL_PER_QUERY_MAX);
        let shards = match self.shards_at_once {
            0 | 1 => String::new(),
            shards => {
                format!(", for each of {shards} shards that a query over all channels works on at a time")
            }
        };
        (Some(workers), format!("half of {cores} cores{shards}, at most {PARALLEL_PER_QUERY_MAX}"))
    }

    /// `maintenance_work_mem` in bytes, and by which rule.
    pub(super) fn maintenance(&self, wish: Option<usize>) -> (Option<u64>, String) {
        if let Some(bytes) = wish {
            return (Some(bytes as u64), "as given".into());
        }
        let show = |bytes: u64| indicatif::BinaryBytes(bytes).to_string();
        let told = self.machines.iter().map(|machine| machine.map(|machine| machine.memory));
        let told = told.collect::<Option<Vec<_>>>().and_then(|memories| memories.into_iter().min());
        let guessed =
            self.settings.iter().map(|of| memory::by_settings(of.shared_buffers, of.effective_cache));
        let guessed = guessed.collect::<Option<Vec<_>>>().and_then(|memories| memories.into_iter().min());
        let (memory, whence) = match (told, guessed) {
            (Some(memory), _) => (memory, format!("{} of memory, as the server's system says", show(memory))),
            (None, Some(memory)) => (
                memory,
                format!("{} of memory, as shared_buffers and effective_cache_size suggest", show(memory)),
            ),
            (None, None) => {
                let why = "the server's memory is not known to this role: give --maintenance-work-mem";
                return (None, why.into());
            }
        };
        let value = memory::of_one_build(memory, self.shards_at_once);
        let own = self.settings.iter().map(|of| of.maintenance).collect::<Option<Vec<_>>>();
        if let Some(own) = own.and_then(|own| own.into_iter().min()).filter(|own| *own >= value) {
            return (
                None,
                format!("the server has {} by itself, and a quarter of {whence} is not more", show(own)),
            );
        }
        let builds = match self.shards_at_once {
            0 | 1 => String::new(),
            shards => format!(", for {shards} shards that an index is built on at a time"),
        };
        (Some(value), format!("a quarter of {whence}{builds}"))
    }
}

impl MachineFiles {
    fn machine(&self, nodes: u64) -> Option<Machine> {
        let text = |file: &Option<String>| file.clone().unwrap_or_default();
        let limits = [text(&self.limit), text(&self.limit_v1)];
        let memory = memory::of_machine(&text(&self.meminfo), &[&limits[0], &limits[1]])?;
        Some(Machine {
            memory: memory / nodes.max(1),
            cores: memory::cores(&text(&self.online), &text(&self.quota)),
        })
    }
}

/// The nodes that take shards; where there are none yet, all.
async fn nodes_with_rows(client: &Client) -> Result<Vec<Address>> {
    let nodes = cluster::nodes(client).await?;
    let usable = |node: &&Node| node.is_primary && node.is_active;
    let address = |node: &Node| node.address.clone();
    let with_rows: Vec<Address> =
        nodes.iter().filter(usable).filter(|node| node.takes_shards).map(address).collect();
    match with_rows.is_empty() {
        true => Ok(nodes.iter().filter(usable).map(address).collect()),
        false => Ok(with_rows),
    }
}

/// Shards of a table that a node works on at a time: as many as it has, or connections go to it.
async fn shards_at_once(client: &Client) -> Result<u64> {
    let sql = "select least(current_setting('citus.max_adaptive_executor_pool_size')::bigint,
        (select max(shards) from (select count(*) as shards from pg_dist_placement join pg_dist_shard using (shardid)
            group by logicalrelid, groupid) as of_a_table))";
    let row =
        client.query_one(sql, &[]).await.map_err(|error| pg_error("count the shards of a node", error))?;
    Ok(row.get::<_, Option<i64>>(0).map_or(1, i64::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn servers(
        machine: Option<(u64, u32)>,
        settings: (u64, Option<u64>, Option<u64>),
        shards: u64,
    ) -> Servers {
        let (shared_buffers, effective_cache, maintenance) = settings;
        Servers {
            settings: vec![Settings { shared_buffers, effective_cache, maintenance }; 2],
            machines: vec![machine.map(|(memory, cores)| Machine { memory, cores: Some(cores) }); 2],
            shards_at_once: shards,
        }
    }

    #[test]
    fn the_memory_there_is_decides_and_the_rule_is_named() {
        let untouched = (128 << 20, None, None);
        let decide = |servers: Servers| servers.maintenance(None);
        let (value, why) = decide(servers(Some((32 * GIB, 8)), untouched, 1));
        assert_eq!(value, Some(8 * GIB));
        assert!(why.contains("as the server's system says"), "{why}");
        let (value, why) = decide(servers(None, (4 * GIB, None, None), 1));
        assert_eq!(value, Some(4 * GIB));
        assert!(why.contains("shared_buffers"), "{why}");
        let (value, why) = decide(servers(None, untouched, 1));
        assert_eq!(value, None);
        assert!(why.contains("--maintenance-work-mem"), "{why}");
        let (value, why) = decide(servers(Some((32 * GIB, 8)), untouched, 16));
        assert_eq!(value, Some(GIB / 2));
        assert!(why.contains("16 shards"), "{why}");
    }

    #[test]
    fn what_the_server_has_by_itself_is_never_lowered() {
        let generous = servers(Some((8 * GIB, 8)), (128 << 20, None, Some(3 * GIB)), 1);
        assert_eq!(generous.maintenance(None).0, None);
        assert_eq!(generous.maintenance(Some(1 << 30)).0, Some(GIB), "unless it is asked for");
    }

    #[test]
    fn shards_that_are_searched_together_share_the_cores() {
        let untouched = (128 << 20, None, None);
        assert_eq!(servers(Some((GIB, 16)), untouched, 1).parallel(None).0, Some(4));
        assert_eq!(servers(Some((GIB, 6)), untouched, 1).parallel(None).0, Some(3));
        assert_eq!(servers(Some((GIB, 16)), untouched, 8).parallel(None).0, Some(1));
        assert_eq!(servers(Some((GIB, 8)), untouched, 16).parallel(None).0, Some(0));
        assert_eq!(servers(None, untouched, 1).parallel(None).0, None);
        assert_eq!(servers(None, untouched, 1).parallel(Some(7)).0, Some(7));
    }
}
