//! `vecload verify`: a sound table passes, and everything that is broken on purpose is found, with cause and cure.

use serde_json::Value;

use super::cluster::Cluster;
use super::connect::{ENCODED, Role};
use super::program::{Load, Outcome, vecload};
use super::rows::Rows;
use super::server::{Db, LEDGER};
use super::session::Session;

pub(crate) fn verify(url: &str, words: &[&str]) -> Outcome {
    vecload(["verify", "--json"].iter().chain(words)).with("--db", url).run()
}

/// What a check has found.
pub(crate) trait Checks {
    fn check(&self, name: &str) -> &Value;
    /// The check's outcome, and words that it has to say.
    fn has(self, name: &str, outcome: &str, words: &[&str]) -> Self;
    /// Names of the checks with an outcome.
    fn with_outcome(&self, outcome: &str) -> Vec<&str>;
}

impl Checks for Outcome {
    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap_or_else(|| panic!("checks{self}"));
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("a check {name}{self}"))
    }

    #[track_caller]
    fn has(self, name: &str, outcome: &str, words: &[&str]) -> Self {
        let check = self.check(name);
        assert_eq!(check["outcome"], outcome, "{name}{self}");
        for word in words {
            assert!(check.to_string().contains(word), "{name} should say {word:?}{self}");
        }
        let is_told = check["cause"].is_string() && check["cure"].is_string();
        assert_eq!(is_told, ["warn", "fail"].contains(&outcome), "cause and cure of {name}{self}");
        self
    }

    #[track_caller]
    fn with_outcome(&self, outcome: &str) -> Vec<&str> {
        let checks = self.report["checks"].as_array().unwrap_or_else(|| panic!("checks{self}"));
        let has = checks.iter().filter(|check| check["outcome"] == outcome);
        has.map(|check| check["name"].as_str().expect("a name")).collect()
    }
}

/// 12,000 rows with all indexes, analyzed, and settings for searching in a channel.
fn filled(rows: &Rows, dir: &std::path::Path) -> Db {
    let db = Db::new();
    vecload(["migrate", "--dim", "16"]).into(&db).run().exits(0);
    Load::of(rows.write(dir, "rows.parquet")).into(&db).run().exits(0);
    alter(&db.session(), "set hnsw.iterative_scan = 'strict_order'");
    db.run("analyze chunks");
    db
}

/// Changes a setting of the session's database.
fn alter(session: &Session, what: &str) {
    let database: String = session.one("select quote_ident(current_database())");
    session.run(&format!("alter database {database} {what}"));
}

#[test]
fn a_sound_table_passes_and_each_thing_that_breaks_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = filled(&Rows::new(12_000, 16), dir.path());
    let verify = |words: &[&str]| verify(&db.url(), words);
    let sound = verify(&[]).exits(0).says("counting about 12,000 rows").says("--no-count");
    let names = [
        "postgres",
        "pgvector",
        "table",
        "settings",
        "indexes",
        "channel_search",
        "full_search",
        "loads",
        "ledger",
        "counts",
    ];
    assert_eq!(sound.with_outcome("pass"), names, "{sound}");
    assert_eq!((&sound.report["passed"], &sound.report["fail"]), (&true.into(), &0.into()));
    assert_eq!(sound.report["table"], "public.chunks");
    let sound = sound.has("full_search", "pass", &["index chunks_embedding_idx", "10 rows in"]);
    sound.has("counts", "pass", &["12,000 rows; the ledger knows 12,000"]);
    verify(&["--no-count"]).exits(0).never_says("counting").has("counts", "skip", &["--no-count"]);

    settings_and_plans(&db);
    indexes(&db);
    counts(&db);
    ledger(&db);
}

fn settings_and_plans(db: &Db) {
    alter(&db.session(), "reset hnsw.iterative_scan");
    alter(&db.session(), "set enable_indexscan = off");
    let told = verify(&db.url(), &["--no-count"]).exits(0);
    told.has("settings", "warn", &["hnsw.iterative_scan is off", "vecload tune"])
        .has("channel_search", "pass", &["index chunks_channel_id_idx"])
        .has("full_search", "warn", &["no index", "enable_indexscan"]);
    alter(&db.session(), "reset enable_indexscan");
}

fn indexes(db: &Db) {
    // What a CREATE INDEX CONCURRENTLY leaves behind that was cancelled.
    let valid = |valid: bool| {
        db.run(&format!(
            "update pg_index set indisvalid = {valid} where indexrelid = 'chunks_user_id_idx'::regclass"
        ));
    };
    valid(false);
    let told = verify(&db.url(), &["--no-count"]).exits(1).says("1 check failed: indexes");
    assert_eq!(told.report["passed"], false);
    told.has(
        "indexes",
        "fail",
        &["chunks_user_id_idx is not valid on public.chunks", "drop index if exists"],
    );
    valid(true);
    db.run("drop index chunks_embedding_idx");
    let told = verify(&db.url(), &["--no-count"]).exits(0);
    told.has("indexes", "warn", &["no HNSW index"]).has("full_search", "skip", &["no HNSW index"]);
    db.run("create index on chunks using hnsw (embedding vector_l2_ops)");
    verify(&db.url(), &["--no-count"]).exits(0).has("indexes", "warn", &["cosine"]);
}

fn counts(db: &Db) {
    let copies = "insert into chunks (channel_id, user_id, content, embedding)
        select channel_id, user_id, content, embedding from chunks limit 5";
    db.run(copies);
    let told = verify(&db.url(), &[]).exits(0);
    told.has("counts", "pass", &["12,005 rows; the ledger knows 12,000", "5 came in another way"]);
    // Others' rows do not make up for those that are gone.
    db.run("delete from chunks where id in (select id from chunks order by id limit 3)");
    let told = verify(&db.url(), &[]).exits(0);
    told.has("counts", "warn", &["12,002 rows", "3 of 12,000 rows of load 1", "vecload loads undo 1"]);
    // A rewrite moves the rows and loses none.
    db.run("vacuum full chunks");
    verify(&db.url(), &[]).exits(0).has("counts", "warn", &["3 of 12,000 rows of load 1", "deleted by hand"]);
    db.run("truncate chunks");
    let told = verify(&db.url(), &[]).exits(0).has("channel_search", "skip", &["empty"]);
    told.has("counts", "warn", &["12,000 of 12,000 rows of load 1", "truncated", "vecload loads forget 1"]);
    // Ids that are given again are not taken for those that are gone.
    db.run("alter sequence chunks_id_seq restart");
    let dir = tempfile::tempdir().expect("a directory");
    Load::of(Rows::new(500, 16).from(20_000).write(dir.path(), "later.parquet")).into(db).run().exits(0);
    let told = verify(&db.url(), &[]).exits(0).has("counts", "warn", &["12,000 of 12,000 rows of load 1"]);
    assert!(!told.check("counts").to_string().contains("load 2"), "{told}");
}

fn ledger(db: &Db) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(100, 16).from(50_000).bad([50_050]);
    Load::of(rows.write(dir.path(), "bad.parquet")).into(db).run().exits(4).state("stopped");
    let told = verify(&db.url(), &["--no-count"]).exits(0);
    told.has("loads", "warn", &["load 3 (stopped)", "1 source that is not all in"]).has(
        "ledger",
        "pass",
        &[],
    );
    db.run(&format!(
        "update {LEDGER}.loads set dropped_indexes = '{{CREATE INDEX lost ON chunks (id)}}' where load_id = 1"
    ));
    db.run(&format!("delete from {LEDGER}.blocks where load_id = 1 and block = 1"));
    let told = verify(&db.url(), &["--no-count"]).exits(1).says("2 checks failed: loads, ledger");
    told.has("loads", "fail", &["not back: lost"]).has("ledger", "fail", &["rows.parquet"]);
}

#[test]
fn what_is_not_there_or_not_allowed_is_said() {
    let db = Db::new();
    let none = verify(&db.url(), &[]).exits(1).has("table", "fail", &["no table chunks", "vecload migrate"]);
    assert_eq!(none.with_outcome("pass"), ["postgres", "pgvector"]);
    db.run("create table plain (id bigint)");
    let plain = verify(&db.url(), &["--table", "plain"]).exits(1).has("table", "fail", &["vector"]);
    let plain = plain.has("ledger", "skip", &["vecload has loaded nothing"]);
    assert!(
        plain.report["checks"]
            .as_array()
            .is_some_and(|all| all.iter().all(|it| it["name"] != "channel_search"))
    );
    verify(&db.url(), &["--table", "plain"]).exits(1).has("full_search", "skip", &["no column has vectors"]);

    vecload(["migrate", "--dim", "8"]).into(&db).run().exits(0);
    let role = Role::new(&db);
    let as_role = |words: &[&str]| verify(&role.url(ENCODED, &db), words);
    let role = &role.name;
    let told =
        as_role(&[]).exits(0).has("settings", "skip", &["SELECT"]).has("full_search", "skip", &["SELECT"]);
    told.has("counts", "skip", &["SELECT"]).has("ledger", "skip", &["usage on the schema"]);
    db.run(&format!("grant select on chunks to {role}; grant usage on schema {LEDGER} to {role}"));
    let told =
        as_role(&[]).exits(0).has("settings", "warn", &[]).has("counts", "skip", &["select on the tables"]);
    told.has("channel_search", "skip", &["empty"]);
    db.run(&format!("drop owned by {role}"));
}

#[test]
fn the_table_fits_on_a_page() {
    let db = Db::bare();
    let long = "a_table_whose_name_is_as_long_as_the_server_lets_it_be";
    vecload(["migrate", "--dim", "8", "--table", long]).into(&db).run().exits(0);
    db.run(
        "update pg_index set indisvalid = false where indisvalid and indexrelid > 16383 and not indisprimary",
    );
    let told = vecload(["verify", "--table", long]).into(&db).run().exits(1);
    let told = told.answers(" fail ").answers("cause: ").answers("cure: ").answers(" pass ");
    let widest = told.stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|width| (60..=100).contains(&width)), "{widest:?}{told}");
}

#[test]
fn shards_are_looked_at_one_by_one() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    let migrate = ["migrate", "--dim", "32", "--shards", "8", "--table", "verified"];
    cluster.vecload(&migrate).exits(0);
    let path = Rows::new(8_000, 32).channels(1).write(dir.path(), "rows.parquet");
    cluster.load(&path, "verified").run().exits(0);
    session.run("analyze verified");
    let verify = |words: &[&str]| verify(&cluster.url(0), &[&["--table", "verified"], words].concat());
    let told = verify(&[]).exits(0);
    let channel: i64 =
        session.one("select channel_id from verified group by 1 order by count(*) desc, 1 limit 1");
    let told = told
        .has("nodes", "pass", &["2 workers; 3 of 3 nodes answer"])
        .has("network", "pass", &["9 of 9"])
        .has("metadata", "pass", &[])
        .has("pgvector", "pass", &["on 3 nodes"])
        .has("distribution", "pass", &["by channel_id"])
        .has("shards", "pass", &["8 shards, replication factor 1"])
        .has("placements", "pass", &["8 active"])
        .has("balance", "pass", &[])
        .has("skew", "warn", &[&format!("(estimated): channel {channel} "), "isolate_tenant_to_new_shard"])
        .has("indexes", "pass", &["on 8 of 8 shards"])
        .has("channel_search", "pass", &["Task Count 1", "10 rows in"])
        .has("full_search", "pass", &["Task Count 8", "10 rows in"]);
    told.has("counts", "pass", &["8,000 rows; the ledger knows 8,000"]);

    let shard: i64 =
        session.one(&format!("select get_shard_id_for_distribution_column('verified', {channel}::bigint)"));
    let port: i32 = session.one(&format!("select nodeport from citus_shards where shardid = {shard}"));
    let node = cluster.ports.iter().position(|other| i32::from(*other) == port).expect("a node");
    let other = cluster.session(if node == 1 { 2 } else { 1 });
    let node = cluster.session(node);
    node.run(&format!(
        "update pg_index set indisvalid = false where indexrelid = 'verified_user_id_idx_{shard}'::regclass;
         drop index verified_embedding_idx_{shard}"
    ));
    other.run(&format!("create table verified_{shard} (id bigint)"));
    session.run("delete from verified where id in (select id from verified order by id limit 2)");
    let told = verify(&[]).exits(1).says("1 check failed: indexes");
    told.has("indexes", "fail", &[&format!("verified_user_id_idx is not valid on public.verified_{shard}:")])
        .has("indexes", "fail", &[&format!("verified_embedding_idx is missing on public.verified_{shard}")])
        .has("placements", "warn", &[&format!("public.verified_{shard} on ")])
        .has("counts", "warn", &["2 of 8,000 rows of load"]);
    other.run(&format!("set citus.enable_manual_changes_to_shards = on; drop table verified_{shard}"));

    session.run("create table alone (id bigint, channel_id bigint, embedding vector(3))");
    let told = super::verify::verify(&cluster.url(0), &["--table", "alone"]).exits(1);
    told.has(
        "distribution",
        "fail",
        &["create_distributed_table('\\\"public\\\".\\\"alone\\\"', 'channel_id')"],
    );
}

#[test]
fn a_broken_cluster_is_described() {
    let Some(cluster) = Cluster::start(3) else { return };
    let (session, worker) = (cluster.session(0), cluster.session(2));
    let verify = |words: &[&str]| verify(&cluster.url(0), words);
    let at = |node: usize| format!("127.0.0.1:{}", cluster.ports[node]);

    session.run("create extension vector");
    worker.run("set citus.enable_ddl_propagation = off; drop extension vector");
    let told = verify(&[]).exits(1).says("pgvector");
    told.has("pgvector", "fail", &["missing on", &format!("no extension vector on {}", at(2))]);
    worker.run("create extension vector");

    cluster.vecload(&["migrate", "--dim", "8", "--shards", "4"]).exits(0);
    let dir = tempfile::tempdir().expect("a directory");
    cluster.load(&Rows::new(2_000, 8).write(dir.path(), "rows.parquet"), "chunks").run().exits(0);
    for node in 0..3 {
        // Citus before 13.1 leaves this to each node, and later versions let no worker begin it.
        let session = cluster.session(node);
        session.run("set citus.enable_ddl_propagation to off; select null::vector");
        alter(&session, "set hnsw.iterative_scan = 'strict_order'");
    }
    let told = verify(&[]).exits(0).has("settings", "pass", &["hnsw.iterative_scan strict_order"]);
    assert_eq!(told.with_outcome("warn"), [""; 0], "{told}");

    // A node of its own mind, and a transaction that no coordinator knows.
    worker.run("alter system set maintenance_work_mem = '33MB'");
    worker.run("select pg_reload_conf()");
    worker.wait_until("current_setting('maintenance_work_mem') = '33MB'");
    worker.run("begin; create table half (id bigint); prepare transaction 'citus_77_1_2_3'");
    session.run(&format!("select citus_remove_node('127.0.0.1', {})", cluster.ports[0]));
    let told = verify(&[]).exits(1).says("2 checks failed: nodes, settings");
    told.has(
        "settings",
        "fail",
        &["different settings: maintenance_work_mem", &format!("33MB on {}", at(2))],
    )
    .has("prepared", "warn", &[&format!("citus_77_1_2_3 on {}", at(2))])
    .has("nodes", "fail", &["the coordinator is not registered", "citus_set_coordinator_host"]);
    worker.run("rollback prepared 'citus_77_1_2_3'");
    worker.run("alter system reset maintenance_work_mem");
    worker.run("select pg_reload_conf()");
    worker.wait_until("current_setting('maintenance_work_mem') <> '33MB'");
    session.run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[0]));

    shards_that_moved_or_went(&cluster, &session);

    cluster.crash(2);
    let told = verify(&[]).exits(1).says("1 check failed: nodes");
    let told = told
        .has("nodes", "fail", &["2 of 3 nodes answer", &format!("{} does not answer", at(2))])
        .has("network", "skip", &[&at(2)])
        .has("settings", "skip", &[&at(2)])
        .has("placements", "warn", &["1 shard is on nodes that do not answer"])
        .has("indexes", "pass", &["on 3 of 4 shards"])
        .has("full_search", "skip", &[&at(2)])
        .has("counts", "skip", &[&at(2)]);
    told.has("channel_search", "pass", &["Task Count 1"]);
    cluster.revive(2);

    an_upgrade_that_is_not_finished_is_told(&cluster, dir.path());

    // What a membership manager does when a container goes.
    let shard: i64 =
        session.one("select min(shardid) from pg_dist_shard where logicalrelid = 'chunks'::regclass");
    session.run(&format!("delete from pg_dist_placement where shardid = {shard}"));
    let told = verify(&["--no-count"]).exits(1);
    told.has("placements", "fail", &[&format!("no node holds shard {shard}")]).has(
        "shards",
        "pass",
        &["4 shards"],
    );
}

/// A node has the library of one version of Citus and the extension of another, as between a package's upgrade and
/// `alter extension`.
fn an_upgrade_that_is_not_finished_is_told(cluster: &Cluster, dir: &std::path::Path) {
    let now: String = cluster.session(0).one("select extversion from pg_extension where extname = 'citus'");
    let becomes = |node: usize, version: &str| {
        cluster.session(node).run(&format!(
            "set citus.enable_version_checks = off; set allow_system_table_mods = on;
             update pg_extension set extversion = '{version}' where extname = 'citus'"
        ));
    };
    let path = Rows::new(500, 8).from(50_000).write(dir, "more.parquet");
    let load = |route: &str| cluster.load(&path, "chunks").with("--index", "keep").with("--route", route);
    let worker = format!("127.0.0.1:{}", cluster.ports[2]);

    becomes(2, "11.0-1");
    verify(&cluster.url(0), &["--no-count"]).exits(1).has(
        "citus",
        "fail",
        &[&worker, "alter extension citus update"],
    );
    load("shards").run().exits(1).says("alter extension citus update").says(&worker);
    load("coordinator").run().exits(1).says(&worker).says("vecload verify");
    becomes(2, &now);
    load("auto").run().exits(0).state("complete");

    becomes(0, "11.0-1");
    // Not worth waiting for, however long one would.
    load("auto").with("--retry-for", "1h").run().exits(2).says("alter extension citus update");
    cluster.vecload(&["migrate", "--dim", "8"]).exits(1).says("alter extension citus update");
    cluster.vecload(&["cluster", "status"]).exits(1).says("alter extension citus update");
    becomes(0, &now);
    load("auto").run().exits(0).state("already_loaded");
}

/// Of four shards on two nodes one moves to the first node, and comes back without its table.
fn shards_that_moved_or_went(cluster: &Cluster, session: &Session) {
    let [from, to] = [cluster.ports[2], cluster.ports[1]];
    let shard: i64 = session.one(&format!(
        "select min(shardid) from citus_shards where table_name = 'chunks'::regclass and nodeport = {from}"
    ));
    session.run(&format!(
        "select citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, 'block_writes')"
    ));
    let told = verify(&cluster.url(0), &["--no-count"]).exits(0);
    told.has("balance", "warn", &["one node has 3 shards and another 1", "vecload cluster rebalance"]).has(
        "placements",
        "pass",
        &["4 active"],
    );

    let holder = cluster.session(1);
    holder.run(&format!(
        "create index stranger on chunks_{shard} (content);
         update pg_index set indisvalid = false where indexrelid = 'stranger'::regclass"
    ));
    let told = verify(&cluster.url(0), &["--no-count"]).exits(1);
    told.has(
        "indexes",
        "fail",
        &[&format!("not valid on public.chunks_{shard}"), "unknown to the table: stranger"],
    );
    holder.run("drop index stranger");
    holder.run(&format!("alter table chunks_{shard} rename to elsewhere"));
    let told = verify(&cluster.url(0), &["--no-count"]).exits(1).says("placements");
    let gone = format!("the table of the shard is gone: {shard} on 127.0.0.1:{to}");
    told.has("placements", "fail", &[&gone]);
    let refused = cluster.vecload(&["cluster", "rebalance"]).exits(2);
    refused.says("1 of the").says("they were dropped there").says("drop table chunks; then");
    holder.run(&format!("alter table elsewhere rename to chunks_{shard}"));
}
