//! Server settings for bulk loads and for building vector indexes on the machine at hand.

use super::machine::Machine;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One server setting and the reason for its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The parameter's name.
    pub name: &'static str,
    /// Its value, as in `postgresql.conf`, without quotes.
    pub value: String,
    /// Why this value.
    pub why: &'static str,
}

/// The settings for a machine. Nothing here trades safety for speed: what was committed survives a crash.
pub fn settings_for(machine: &Machine) -> Vec<Setting> {
    let memory = machine.memory_bytes;
    let maintenance = (memory / 4).clamp(64 * MIB, 16 * GIB);
    // A parallel index build takes maintenance_work_mem as one shared segment; some room is for other segments.
    let shm_fits = machine.shm_bytes.is_none_or(|shm| shm >= maintenance + maintenance / 4);
    // A crash needs this much again, and a full disk stops the server.
    let max_wal = (machine.disk_free_bytes / 8).clamp(256 * MIB, 16 * GIB);
    let shared = if memory < 4 * GIB { memory / 8 } else { (memory / 4).min(4 * GIB) };
    let cores = machine.cores.max(1);
    let mut settings = Vec::new();
    let mut set = |name, value: String, why| settings.push(Setting { name, value, why });
    set(
        "shared_buffers",
        mib(shared.max(32 * MIB)),
        "a quarter of memory (an eighth of a small one), at most 4 GB: a load writes through it, more gains nothing",
    );
    set(
        "effective_cache_size",
        mib(memory / 2),
        "what the page cache will hold beside us; only the planner reads it",
    );
    set(
        "work_mem",
        mib((memory / 512).clamp(4 * MIB, 64 * MIB)),
        "per sort and per worker, of up to 100 connections",
    );
    set(
        "maintenance_work_mem",
        mib(maintenance),
        "an HNSW build slows down tenfold once its graph outgrows this",
    );
    set(
        "autovacuum_work_mem",
        mib((memory / 32).clamp(32 * MIB, GIB)),
        "three autovacuum workers would otherwise take maintenance_work_mem each",
    );
    set(
        "dynamic_shared_memory_type",
        if shm_fits { "posix" } else { "sysv" }.into(),
        "posix, unless /dev/shm is too small for a parallel index build (64 MB in many containers)",
    );
    set(
        "max_parallel_maintenance_workers",
        (cores - 1).min(15).to_string(),
        "index builds use every core: the leader works too",
    );
    set("max_parallel_workers", cores.to_string(), "no more than there are cores");
    set(
        "max_parallel_workers_per_gather",
        (cores / 2).min(4).to_string(),
        "one query leaves cores for others",
    );
    set("max_worker_processes", (cores + 8).to_string(), "the workers above and those of extensions");
    set("max_connections", "100".into(), "writers, tools and Citus together stay well below");
    set("wal_level", "replica".into(), "can be backed up and replicated while it runs");
    set(
        "max_wal_size",
        mib(max_wal),
        "few checkpoints during a load (each makes pages be logged whole again), at most an eighth of the free disk",
    );
    set(
        "min_wal_size",
        mib((max_wal / 8).clamp(80 * MIB, 2 * GIB)),
        "log files are used again instead of made anew",
    );
    set("checkpoint_timeout", "30min".into(), "as max_wal_size; bounds the recovery after a crash too");
    set("checkpoint_completion_target", "0.9".into(), "spreads the writes of a checkpoint");
    set("wal_compression", "off".into(), "embeddings don't compress: it would only cost CPU");
    set("fsync", "on".into(), "what is committed survives a crash");
    set("synchronous_commit", "on".into(), "as fsync; blocks are large enough for it to cost nothing");
    set("autovacuum", "on".into(), "statistics after a load come from it");
    set("jit", "off".into(), "compiling costs more than these queries take");
    settings
}

/// Whole megabytes, as PostgreSQL writes them.
fn mib(bytes: u64) -> String {
    format!("{}MB", bytes / MIB)
}

/// A value in single quotes, as configuration files want it.
pub(super) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(memory_gib: u64, cores: u32, shm_mib: u64, disk_gib: u64) -> Machine {
        Machine {
            memory_bytes: memory_gib * GIB,
            cores,
            shm_bytes: Some(shm_mib * MIB),
            disk_free_bytes: disk_gib * GIB,
        }
    }

    fn value(machine: &Machine, name: &str) -> String {
        settings_for(machine).into_iter().find(|setting| setting.name == name).unwrap().value
    }

    #[test]
    fn a_large_machine_is_used() {
        let large = machine(256, 32, 128 * 1024, 2000);
        assert_eq!(value(&large, "shared_buffers"), "4096MB");
        assert_eq!(value(&large, "maintenance_work_mem"), "16384MB");
        assert_eq!(value(&large, "max_parallel_maintenance_workers"), "15");
        assert_eq!(value(&large, "max_wal_size"), "16384MB");
        assert_eq!(value(&large, "dynamic_shared_memory_type"), "posix");
        assert_eq!(value(&large, "work_mem"), "64MB");
    }

    #[test]
    fn a_small_machine_is_spared() {
        let small = machine(1, 1, 512, 4);
        assert_eq!(value(&small, "shared_buffers"), "128MB");
        assert_eq!(value(&small, "maintenance_work_mem"), "256MB");
        assert_eq!(value(&small, "max_parallel_maintenance_workers"), "0");
        assert_eq!(value(&small, "max_parallel_workers_per_gather"), "0");
        assert_eq!(value(&small, "max_wal_size"), "512MB");
        assert_eq!(value(&small, "work_mem"), "4MB");
    }

    #[test]
    fn a_container_with_little_shared_memory_still_builds_in_parallel() {
        assert_eq!(value(&machine(16, 8, 64, 100), "dynamic_shared_memory_type"), "sysv");
        let mac = Machine { shm_bytes: None, ..machine(16, 8, 0, 100) };
        assert_eq!(value(&mac, "dynamic_shared_memory_type"), "posix");
    }

    #[test]
    fn no_machine_is_asked_for_more_memory_than_it_has() {
        for gib in 1..300 {
            let machine = machine(gib, 4, 64, 100);
            let of = |name| value(&machine, name).trim_end_matches("MB").parse::<u64>().unwrap() * MIB;
            let taken = of("shared_buffers") + of("maintenance_work_mem") + 3 * of("autovacuum_work_mem");
            assert!(taken <= machine.memory_bytes * 2 / 3, "{gib} GiB: {taken}");
        }
    }

    #[test]
    fn durability_is_never_traded() {
        let nothing = Machine { memory_bytes: 0, cores: 0, shm_bytes: Some(0), disk_free_bytes: 0 };
        for name in ["fsync", "synchronous_commit", "autovacuum"] {
            assert_eq!(value(&nothing, name), "on");
        }
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted(r"a'b\c"), r"'a''b\\c'");
    }
}
