//! The machine a server finds itself on: memory, cores, shared memory, disk.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// What the settings are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Memory this process and its children may use.
    pub memory_bytes: u64,
    /// Cores they may use.
    pub cores: u32,
    /// What `/dev/shm` can hold; `None` where shared memory has no such limit.
    pub shm_bytes: Option<u64>,
    /// Free disk space for the cluster.
    pub disk_free_bytes: u64,
}

/// Assumed where the system doesn't say, and small enough to fit anywhere.
const MEMORY_BYTES_UNKNOWN: u64 = 2 << 30;
const DISK_BYTES_UNKNOWN: u64 = 10 << 30;

impl Machine {
    /// Looks at this machine, with the cluster in `home`.
    pub(super) fn look(home: &Path) -> Self {
        let memory = [physical_memory(), cgroup_limit()].into_iter().flatten().min();
        Self {
            memory_bytes: memory.unwrap_or(MEMORY_BYTES_UNKNOWN),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024) as u32),
            shm_bytes: if cfg!(target_os = "linux") {
                // Without /dev/shm nothing fits there.
                Some(
                    statvfs("/dev/shm")
                        .map_or(0, |found| bytes(found.blocks_available(), found.fragment_size())),
                )
            } else {
                None
            },
            disk_free_bytes: statvfs(home)
                .map_or(DISK_BYTES_UNKNOWN, |found| bytes(found.blocks_available(), found.fragment_size())),
        }
    }
}

/// The types of these numbers differ between systems.
fn bytes(blocks: impl Into<u64>, size: impl Into<u64>) -> u64 {
    blocks.into().saturating_mul(size.into())
}

#[cfg(target_os = "linux")]
fn physical_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> Option<u64> {
    let output = std::process::Command::new("sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A container's limit, in either version of control groups; `None` if there is no limit.
fn cgroup_limit() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    cgroup_limit_files(&membership)
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        // "max" doesn't parse; version 1 writes a number near 2^63.
        .filter(|limit| (1..1 << 60).contains(limit))
        .min()
}

/// The files of our group and of all groups above it: any of them may hold the limit.
fn cgroup_limit_files(membership: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut group = group.trim_end_matches('/');
        loop {
            files.push(format!("{root}{group}/{file}"));
            let Some((above, _)) = group.rsplit_once('/') else {
                break;
            };
            group = above;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_of_everything() {
        let machine = Machine::look(Path::new("/tmp"));
        assert!(machine.memory_bytes > 64 << 20, "{machine:?}");
        assert!(machine.cores >= 1 && machine.disk_free_bytes > 0, "{machine:?}");
    }

    #[test]
    fn limits_are_looked_for_in_all_groups_above() {
        assert_eq!(
            cgroup_limit_files("0::/user.slice/a\n"),
            [
                "/sys/fs/cgroup/user.slice/a/memory.max",
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            cgroup_limit_files("5:cpu:/x\n4:memory:/docker/1\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
    }
}
