//! `compose/`: the script that makes a cluster of servers, and the secret, by local servers. What an engine of
//! containers does with the rest is tried by hand; `.ci/run` has the file itself read by docker-compose.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::Cluster;

/// Colon and backslash are special in a password file, the quote in SQL.
const PASSWORD: &str = r"it's:a\secret";

/// What a script said, and whether it ended well.
struct Told {
    text: String,
    code: Option<i32>,
}

impl Told {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.text.contains(text), "it should say {text:?}: {}", self.text);
        self
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compose").join(name)
}

fn told(command: &mut Command) -> Told {
    let output = command.output().expect("run a script");
    let text = [output.stdout, output.stderr].concat();
    Told { text: String::from_utf8_lossy(&text).into_owned(), code: output.status.code() }
}

/// Servers, and what the script is told about them.
struct Servers {
    cluster: Cluster,
    secret: tempfile::NamedTempFile,
}

impl Servers {
    /// Servers that are in no cluster, and ask for a password.
    fn start(count: usize) -> Option<Self> {
        let mut cluster = Cluster::empty()?;
        for _ in 0..count {
            cluster.start_node();
        }
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&secret, format!("{PASSWORD}\n")).expect("write the secret");
        Some(Self { cluster, secret })
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.cluster.ports[node])
    }

    fn register(&self, addresses: &[&str]) -> Told {
        let programs = self.cluster.program("");
        let path = std::env::join_paths([programs, "/usr/bin".into(), "/bin".into()]).expect("a PATH");
        let mut command = Command::new(script("register.sh"));
        command.args(addresses).env_clear().env("PATH", path);
        command.env("PGUSER", "vecload").env("PGDATABASE", "postgres");
        command.env("PASSWORD_FILE", self.secret.path()).env("WAIT_SECONDS", "1");
        told(&mut command)
    }
}

#[test]
fn servers_become_a_cluster_and_stay_one_when_the_script_is_run_again() {
    let Some(servers) = Servers::start(4) else { return };
    let cluster = &servers.cluster;
    let sessions = [0, 1, 2, 3].map(|node| cluster.session(node));
    cluster.ask_for_password(PASSWORD);
    let [coordinator, one, two, three] = [0, 1, 2, 3].map(|node| servers.address(node));
    servers
        .register(&[&coordinator, &one])
        .exits(0)
        .says(&format!("{coordinator}: created the extension citus"))
        .says(&format!("worker {one}: registered"))
        .says("the cluster is ready: PostgreSQL");
    // As the profile of three workers does it, after one has been registered.
    servers.register(&[&coordinator, &two, &three]).exits(0).says(&format!("worker {three}: registered"));
    let nodes =
        "select format('%s %s %s %s', nodeid, groupid, nodeport, isactive) from pg_dist_node order by 1";
    let registered: Vec<String> = sessions[0].column(nodes);
    assert_eq!(registered.len(), 4, "{registered:?}");
    servers
        .register(&[&coordinator, &one, &two, &three])
        .exits(0)
        .says(&format!("coordinator {coordinator}: registered already"))
        .says(&format!("worker {two}: registered already"));
    assert_eq!(sessions[0].column::<String>(nodes), registered);
    for session in &sessions {
        assert_eq!(session.count("pg_extension where extname in ('citus', 'vector')"), 2);
    }
    // A worker that was removed keeps its number and its list of nodes.
    sessions[0].run(&format!("select citus_remove_node('127.0.0.1', {})", cluster.ports[3]));
    servers.register(&[&coordinator, &three]).exits(0).says(&format!("worker {three}: registered"));
    assert_eq!(sessions[0].column::<String>(nodes).len(), 4);
    // Rows pass between nodes, from any of them, with the password that the servers have in their file.
    sessions[0].run("create table spread (id bigint primary key, v vector(2))");
    sessions[0].run("select create_distributed_table('spread', 'id')");
    sessions[2].run("insert into spread select n, '[1,2]' from generate_series(1, 100) n");
    assert_eq!(sessions[0].count("spread"), 100);

    // A coordinator at the address of the one that the workers know, with none of its data.
    sessions[0].run("drop table spread");
    for port in &cluster.ports[1..] {
        sessions[0].run(&format!("select citus_remove_node('127.0.0.1', {port})"));
    }
    sessions[0].run("create table given as select last_value from pg_dist_groupid_seq");
    sessions[0].run("alter sequence pg_dist_groupid_seq restart");
    servers.register(&[&coordinator, &one]).exits(1).says(&one).says("restore them from a backup");
    sessions[0].run("select setval('pg_dist_groupid_seq', last_value) from given");
    servers.register(&[&coordinator, &one, &two, &three]).exits(0).says(&format!("worker {one}: registered"));

    // A server at a known address that is not the one that was registered: a volume was lost.
    sessions[3].run("update pg_dist_local_group set groupid = 0");
    servers
        .register(&[&coordinator, &three])
        .exits(1)
        .says(&three)
        .says("not the server that was registered");
    sessions[3].run("update pg_dist_local_group set groupid = 77");
    servers.register(&[&coordinator, &three]).exits(1).says("says it is node 77");
}

#[test]
fn what_can_not_become_a_cluster_is_told_with_its_cause() {
    let Some(servers) = Servers::start(4) else { return };
    let cluster = &servers.cluster;
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|node| servers.address(node));
    servers.register(&[&first]).exits(2).says("usage");
    servers.register(&[&first, &second, &first]).exits(1).says("as coordinator and as worker");
    servers.register(&[&first, &second]).exits(0);
    // The coordinator reaches the worker, but not the other way round: no server here speaks TLS.
    let worker = cluster.session(1);
    for (conninfo, told) in [("sslmode=require", 1), ("sslmode=prefer", 0)] {
        worker.run(&format!("alter system set citus.node_conninfo = '{conninfo}'"));
        worker.run("select pg_reload_conf()");
        worker.wait_until(&format!("current_setting('citus.node_conninfo') = '{conninfo}'"));
        let said = if told == 1 { format!("can't reach each other: {second} to") } else { "is ready".into() };
        servers.register(&[&first, &second]).exits(told).says(&said);
    }
    // A worker is no coordinator, and a node belongs to one cluster.
    servers.register(&[&second, &third]).exits(1).says(&second).says("is a worker of another coordinator");
    servers.register(&[&third, &second]).exits(1).says(&second).says("is a worker of another cluster");
    servers.register(&[&third, &first]).exits(1).says("is the coordinator of another cluster");
    // A node that is down is no matter for others, and has to be up for itself.
    servers.register(&[&first, &fourth]).exits(0);
    cluster.crash(3);
    servers
        .register(&[&first, &second])
        .exits(0)
        .says(&format!(
            "warning: other nodes of the cluster that don't reach all, or that not all reach: {fourth}\n"
        ))
        .says("is ready");
    cluster.revive(3);
    cluster.ask_for_password("another");
    servers.register(&[&first, &second]).exits(1).says(&first).says("password authentication failed");
    cluster.crash(2);
    std::fs::write(&servers.secret, "another").expect("write the secret");
    servers
        .register(&[&first, &third])
        .exits(1)
        .says(&third)
        .says("did not answer within 1 s")
        .says("refused");
    std::fs::write(&servers.secret, "").expect("write the secret");
    servers.register(&[&first, &second]).exits(1).says("is empty");
}

#[test]
fn the_secret_is_made_once_and_for_its_owner_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("make-secret.sh");
    std::fs::copy(script("make-secret.sh"), &copy).expect("copy the script");
    told(&mut Command::new(&copy)).exits(0).says("made");
    let secret = directory.path().join("secrets/postgres_password");
    let password = std::fs::read_to_string(&secret).expect("the secret");
    assert_eq!(password.trim_end().len(), 48);
    let mode = std::os::unix::fs::PermissionsExt::mode(&secret.metadata().expect("the secret").permissions());
    assert_eq!(mode & 0o777, 0o600);
    told(&mut Command::new(&copy)).exits(0).says("stays");
    assert_eq!(std::fs::read_to_string(&secret).expect("the secret"), password);
}
