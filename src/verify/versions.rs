//! Versions of PostgreSQL, pgvector and Citus on every node.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Facts};
use super::{Check, listed};

/// A version in numbers: 0.8.6 is (0, 8, 6).
type Numbers = (u32, u32, u32);

/// What pgvector's CHANGELOG.md says was fixed in HNSW indexes over vectors: since when the feature is there (HNSW in
/// 0.5.0, parallel builds in 0.6.0), the version with the fix, and the fault in its words.
const HNSW_FAULTS: &[(Numbers, Numbers, &str)] = &[
    (
        (0, 5, 0),
        (0, 8, 4),
        "`hnsw graph not repaired` error with HNSW vacuuming, possible error with inserts meanwhile",
    ),
    ((0, 5, 0), (0, 8, 3), "possible index corruption with HNSW vacuuming"),
    ((0, 6, 0), (0, 8, 2), "buffer overflow with parallel HNSW index build"),
    ((0, 6, 0), (0, 7, 4), "locking for parallel HNSW index builds"),
    ((0, 5, 0), (0, 7, 2), "initialization fork for indexes on unlogged tables"),
    ((0, 5, 0), (0, 6, 0), "`invalid memory alloc request size` error with HNSW index builds"),
];

/// The first pgvector with HNSW.
const HNSW_FIRST: Numbers = (0, 5, 0);

/// The first pgvector whose scans go on until enough rows pass a filter.
const ITERATIVE_FIRST: Numbers = (0, 8, 0);

/// PostgreSQL, pgvector, and Citus where it is.
pub(super) fn checks(cluster: &Cluster) -> Vec<Check> {
    let mut checks = vec![postgres(cluster), pgvector(cluster)];
    if cluster.citus {
        checks.push(extension(cluster, "citus", "Citus"));
    }
    checks
}

fn postgres(cluster: &Cluster) -> Check {
    let versions = by_version(cluster, |facts| Some(facts.postgres.clone()));
    let mut check = Check::pass("postgres", shown(cluster, &versions));
    let majors = versions.keys().flatten().map(|version| version.split('.').next().unwrap_or_default());
    if majors.collect::<std::collections::BTreeSet<_>>().len() > 1 {
        check.fail(
            "the nodes run different major versions of PostgreSQL",
            "bring all nodes to one major version (pg_upgrade)",
        );
    } else if versions.len() > 1 {
        check.warn("the nodes run different minor versions of PostgreSQL", "update the older ones");
    }
    check
}

fn pgvector(cluster: &Cluster) -> Check {
    let mut check = extension(cluster, "vector", "pgvector");
    if let Some(version) = oldest_pgvector(cluster) {
        judge_pgvector(&mut check, version);
    }
    check
}

/// Whether a scan of an index can go on until enough rows pass a filter.
pub(super) fn can_iterate(cluster: &Cluster) -> bool {
    oldest_pgvector(cluster).is_some_and(|version| version >= ITERATIVE_FIRST)
}

fn oldest_pgvector(cluster: &Cluster) -> Option<Numbers> {
    // The library is what runs, whatever version of its SQL the database has.
    let running = |facts: &Facts| {
        let of = |versions: &BTreeMap<String, String>| versions.get("vector").and_then(|text| numbers(text));
        facts.extensions.get("vector").and_then(|_| of(&facts.libraries).or(of(&facts.extensions)))
    };
    cluster.nodes.iter().filter_map(|node| running(node.facts.as_ref().ok()?)).min()
}

fn judge_pgvector(check: &mut Check, version: Numbers) {
    let (major, minor, patch) = version;
    if version < HNSW_FIRST {
        check.fail(
            format!("pgvector {major}.{minor}.{patch} has no HNSW indexes"),
            "install pgvector 0.8.4 or newer, then: alter extension vector update",
        );
        return;
    }
    let faults: Vec<String> = HNSW_FAULTS
        .iter()
        .filter(|(since, fixed, _)| (*since..*fixed).contains(&version))
        .map(|(_, (major, minor, patch), what)| format!("{what} (fixed in {major}.{minor}.{patch})"))
        .collect();
    if !faults.is_empty() {
        check.warn(
            format!("pgvector {major}.{minor}.{patch} has faults in HNSW: {}", faults.join("; ")),
            "install pgvector 0.8.4 or newer on every node, connect anew, then: alter extension vector update; build \
             an index that may be damaged anew: reindex index concurrently NAME",
        );
    }
    if version < ITERATIVE_FIRST {
        check.warn(
            "before 0.8.0 a search with a filter ends with what the index gave, which may be too few rows",
            "install pgvector 0.8.4 or newer on every node, connect anew, then: alter extension vector update",
        );
    }
}

/// Whether an extension is there and the same on every node.
fn extension(cluster: &Cluster, name: &'static str, title: &str) -> Check {
    let versions = by_version(cluster, |facts| facts.extensions.get(name).cloned());
    let label = if name == "vector" { "pgvector" } else { name };
    let mut check = Check::pass(label, shown(cluster, &versions));
    if let Some(nodes) = versions.get(&None) {
        check.fail(
            format!("the database has no extension {name} on {}", listed(nodes)),
            format!(
                "install {title} there, then, in this database and on that server: create extension {name}"
            ),
        );
    }
    if versions.keys().flatten().count() > 1 {
        check.fail(
            format!("the nodes have different versions of {title}"),
            format!("install the newest on every node, then on each: alter extension {name} update"),
        );
    }
    let behind: Vec<&str> = cluster
        .nodes
        .iter()
        .filter(|node| {
            node.facts.as_ref().is_ok_and(|facts| {
                let (there, installed) = (facts.extensions.get(name), facts.libraries.get(name));
                there.is_some() && installed.is_some() && there != installed
            })
        })
        .map(|node| node.name.as_str())
        .collect();
    if !behind.is_empty() {
        check.warn(
            format!("another version of {title} is installed than the database uses, on {}", listed(&behind)),
            format!("alter extension {name} update"),
        );
    }
    check
}

/// The nodes that answer, by what they have.
fn by_version(
    cluster: &Cluster,
    version: impl Fn(&Facts) -> Option<String>,
) -> BTreeMap<Option<String>, Vec<&str>> {
    let mut versions: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for node in &cluster.nodes {
        if let Ok(facts) = &node.facts {
            versions.entry(version(facts)).or_default().push(&node.name);
        }
    }
    versions
}

fn shown(cluster: &Cluster, versions: &BTreeMap<Option<String>, Vec<&str>>) -> String {
    let word = |version: &Option<String>| version.clone().unwrap_or_else(|| "missing".into());
    let all: Vec<String> = match versions.len() {
        0 => vec!["no node answers".into()],
        1 if cluster.nodes.len() == 1 => versions.keys().map(word).collect(),
        1 => {
            versions.iter().map(|(version, on)| format!("{} on {} nodes", word(version), on.len())).collect()
        }
        _ => versions.iter().map(|(version, on)| format!("{} on {}", word(version), listed(on))).collect(),
    };
    all.join("; ")
}

fn numbers(text: &str) -> Option<Numbers> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn judged(text: &str) -> Check {
        let mut check = Check::pass("pgvector", text);
        judge_pgvector(&mut check, numbers(text).unwrap());
        check
    }

    #[test]
    fn known_faults_are_told_of_the_versions_that_have_them() {
        for sound in ["0.8.4", "0.8.6", "0.9.0", "1.0"] {
            assert_eq!(judged(sound).outcome, Outcome::Pass, "{sound}");
        }
        let faults = |text: &str| judged(text).cause.unwrap_or_default();
        assert!(faults("0.8.3").contains("graph not repaired") && !faults("0.8.3").contains("corruption"));
        assert!(faults("0.8.2").contains("corruption") && !faults("0.8.2").contains("overflow"));
        assert!(faults("0.8.1").contains("buffer overflow with parallel HNSW index build (fixed in 0.8.2)"));
        assert!(faults("0.5.1").contains("corruption") && !faults("0.5.1").contains("parallel"));
        assert!(faults("0.7.4").contains("too few rows") && !faults("0.8.0").contains("too few rows"));
        assert_eq!(judged("0.4.4").outcome, Outcome::Fail);
    }
}
