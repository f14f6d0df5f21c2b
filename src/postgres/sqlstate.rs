//! What a load does about what the server says, by SQLSTATE (PostgreSQL manual, appendix "PostgreSQL Error Codes").

/// What is done about a server's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The same may succeed a little later.
    Retry,
    /// Rows of the block are at fault: they are found, and the rest goes in.
    Isolate,
    /// Somebody has to do something first.
    Stop,
}

/// Codes and classes of codes; the first that an error's code begins with decides.
const REACTIONS: &[(&str, Reaction)] = &[
    // The connection broke, or could not be made.
    ("08", Reaction::Retry),
    // Read-only: the server was a standby, or has become one.
    ("25006", Reaction::Retry),
    // The session was idle in its transaction for too long, or the transaction took too long.
    ("25P03", Reaction::Retry),
    ("25P04", Reaction::Retry),
    // Serialization failure and deadlock.
    ("40001", Reaction::Retry),
    ("40P01", Reaction::Retry),
    // Out of memory, too many connections.
    ("53200", Reaction::Retry),
    ("53300", Reaction::Retry),
    // A lock was not to be had in time.
    ("55P03", Reaction::Retry),
    // Shut down, crashed, starting up, idle for too long.
    ("57P01", Reaction::Retry),
    ("57P02", Reaction::Retry),
    ("57P03", Reaction::Retry),
    ("57P05", Reaction::Retry),
    // A value that its type refuses, a constraint that refuses a row.
    ("22", Reaction::Isolate),
    ("23", Reaction::Isolate),
    // A view's check option; RAISE EXCEPTION of a trigger.
    ("44", Reaction::Isolate),
    ("P0001", Reaction::Isolate),
];

/// What is done about an error of this code. What is not listed (a full disk, 53100; a database dropped, 57P04;
/// a cancelled statement, 57014; refused sessions, 28; tables and rights, 42) won't mend itself.
pub fn reaction(code: &str) -> Reaction {
    let listed = REACTIONS.iter().find(|(begins, _)| code.starts_with(begins));
    listed.map_or(Reaction::Stop, |(_, reaction)| *reaction)
}

/// Whether an error of Citus is about its nodes and shards as they were just now, and not about rows: a node has lost
/// another, of which it passes on what its connection said, or a shard was split while the statement waited.
pub fn is_of_the_cluster(code: &str, message: &str) -> bool {
    const INTERNAL: [&str; 6] = [
        "server closed the connection unexpectedly",
        "connection not open",
        "connection has been closed unexpectedly",
        "could not receive data from server",
        "connection to server",
        "could not find valid entry for shard",
    ];
    // A worker's session that is gone in the middle of a COPY.
    const INPUT_OUTPUT: [&str; 2] = ["failed to COPY to shard", "failed to complete COPY on"];
    let said: &[&str] = match code {
        "XX000" => &INTERNAL,
        "58030" => &INPUT_OUTPUT,
        _ => &[],
    };
    said.iter().any(|said| message.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_retried_isolated_or_final() {
        let retried = ["08006", "57P01", "57P02", "57P03", "57P05", "40001", "40P01", "53200", "53300"];
        for code in retried.iter().chain(&["55P03", "25006", "25P03", "25P04", "08000"]) {
            assert_eq!(reaction(code), Reaction::Retry, "{code}");
        }
        for code in ["22P02", "22003", "23505", "23514", "23503", "23502", "44000", "P0001"] {
            assert_eq!(reaction(code), Reaction::Isolate, "{code}");
        }
        for code in ["53100", "57P04", "57014", "28P01", "28000", "42P01", "42501", "XX000", "0A000", "P0002"]
        {
            assert_eq!(reaction(code), Reaction::Stop, "{code}");
        }
    }

    #[test]
    fn a_worker_that_is_lost_in_the_middle_of_a_copy_is_told_from_a_broken_disk() {
        assert!(is_of_the_cluster("58030", "failed to COPY to shard 102012 on 127.0.0.1:9711"));
        assert!(is_of_the_cluster("58030", "failed to complete COPY on 127.0.0.1:9711"));
        assert!(is_of_the_cluster("XX000", "connection not open"));
        assert!(!is_of_the_cluster("58030", "could not read blocks 5..5 in file \"base/5/16384\""));
        assert!(!is_of_the_cluster("XX000", "failed to COPY to shard"));
    }
}
