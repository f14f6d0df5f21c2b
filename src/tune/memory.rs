//! How much memory one index build may take.

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// PostgreSQL's default, and the least that is set.
const MAINTENANCE_MIN: u64 = 64 * MIB;

/// More than that helps few graphs, and is much to take at once.
const MAINTENANCE_MAX: u64 = 16 * GIB;

/// What initdb writes as `shared_buffers`, so that it says nothing of the machine.
const SHARED_BUFFERS_UNTOUCHED: u64 = 128 * MIB;

/// A size as PostgreSQL shows settings: in the largest unit that leaves a whole number.
pub(super) fn shown(bytes: u64) -> String {
    let kib = bytes / 1024;
    match kib {
        _ if kib.is_multiple_of(GIB) => format!("{}TB", kib / GIB),
        _ if kib.is_multiple_of(MIB) => format!("{}GB", kib / MIB),
        _ if kib.is_multiple_of(1024) => format!("{}MB", kib / 1024),
        _ => format!("{kib}kB"),
    }
}

/// A machine's memory from `/proc/meminfo` and the limits of control groups, which are larger than any memory or no
/// number where there is none.
pub(super) fn of_machine(meminfo: &str, limits: &[&str]) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let limits = limits.iter().filter_map(|limit| limit.trim().parse().ok()).filter(|limit| *limit > 0);
    limits.chain([kib.checked_mul(1024)?]).min()
}

/// The least memory that a server must have, going by what its owner has set: shared buffers are a quarter of the
/// memory by custom, and the cache that the planner counts on is not more than all of it.
pub(super) fn by_settings(shared_buffers: u64, effective_cache: Option<u64>) -> Option<u64> {
    let by_buffers = (shared_buffers > SHARED_BUFFERS_UNTOUCHED).then(|| shared_buffers.saturating_mul(4));
    [by_buffers, effective_cache].into_iter().flatten().min()
}

/// What one of several builds at a time may take: all of them a quarter of the memory.
pub(super) fn of_one_build(memory: u64, builds: u64) -> u64 {
    let share = memory / 4 / builds.max(1);
    share.clamp(MAINTENANCE_MIN, MAINTENANCE_MAX) / MIB * MIB
}

/// Cores from a list such as `0-3,8`, and `cpu.max` of a control group such as `150000 100000`.
pub(super) fn cores(online: &str, quota: &str) -> Option<u32> {
    let mut count = 0u32;
    for range in online.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?)?.checked_add(1)?;
    }
    let quota = quota.trim().split_once(' ').and_then(|(quota, period)| {
        let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
        (period > 0.0).then(|| (quota / period).ceil().max(1.0) as u32)
    });
    Some(quota.map_or(count, |quota| quota.min(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_the_server_shows_them() {
        for (bytes, text) in [
            (64 * MIB, "64MB"),
            (GIB, "1GB"),
            (1536 * MIB, "1536MB"),
            (1 << 40, "1TB"),
            (MIB + 1024, "1025kB"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }

    #[test]
    fn the_smallest_limit_is_the_memory() {
        let meminfo = "MemTotal:       24684092 kB\nMemFree:  1 kB\n";
        assert_eq!(of_machine(meminfo, &["max\n", ""]), Some(24_684_092 * 1024));
        assert_eq!(of_machine(meminfo, &["2147483648\n", "9223372036854771712"]), Some(2 * GIB));
        assert_eq!(of_machine("", &["2147483648"]), None);
    }

    #[test]
    fn settings_tell_of_memory_only_where_somebody_chose_them() {
        assert_eq!(by_settings(128 * MIB, None), None);
        assert_eq!(by_settings(4 * GIB, None), Some(16 * GIB));
        assert_eq!(by_settings(4 * GIB, Some(12 * GIB)), Some(12 * GIB));
        assert_eq!(by_settings(128 * MIB, Some(3 * GIB)), Some(3 * GIB));
    }

    #[test]
    fn all_builds_together_take_a_quarter_of_the_memory() {
        assert_eq!(of_one_build(64 * GIB, 1), 16 * GIB);
        assert_eq!(of_one_build(512 * GIB, 1), 16 * GIB);
        assert_eq!(of_one_build(64 * GIB, 16), GIB);
        assert_eq!(of_one_build(GIB, 16), 64 * MIB, "PostgreSQL's default is the least");
    }

    #[test]
    fn cores_are_counted_and_limited() {
        assert_eq!(cores("0-3,8\n", "max 100000\n"), Some(5));
        assert_eq!(cores("0-15", "150000 100000"), Some(2));
        assert_eq!(cores("0", ""), Some(1));
        assert_eq!(cores("", ""), None);
    }
}
