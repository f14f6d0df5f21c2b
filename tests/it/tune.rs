//! `vecload tune`: what it sets, that every node shows it, and the way back.

use serde_json::Value;

use super::cluster::Cluster;
use super::program::{Outcome, Vecload, vecload};
use super::server::Db;
use super::session::Session;

fn tune(url: &str) -> Vecload {
    vecload(["tune", "--json"]).with("--db", url)
}

/// What a node reports, as its first or another one.
fn seen(outcome: &Outcome, node: usize, parameter: &str) -> Value {
    outcome.report["nodes"][node]["settings"][parameter].clone()
}

fn changed(outcome: &Outcome) -> usize {
    outcome.report["changes"].as_array().map_or(0, Vec::len)
}

#[test]
fn new_sessions_have_the_settings_and_reset_puts_the_old_ones_back() {
    let db = Db::new();
    let setting = |name: &str| {
        db.session().one::<Option<String>>(&format!("select nullif(current_setting('{name}', true), '')"))
    };
    db.run(&format!("alter database {} set hnsw.ef_search = 60", db.name()));
    let memory = setting("maintenance_work_mem");
    let given = || tune(&db.url()).with("--maintenance-work-mem", "96MiB").with("--parallel", 1);
    let shown = tune(&db.url()).arg("--show").run().exits(0).state("shown");
    assert_eq!((seen(&shown, 0, "hnsw.ef_search"), changed(&shown)), ("60".into(), 0));
    let first = given().run().exits(0).state("tuned");
    assert_eq!(changed(&first), 4, "{first}");
    assert_eq!(seen(&first, 0, "maintenance_work_mem"), "96MB");
    assert_eq!(setting("hnsw.ef_search").as_deref(), Some("100"));
    assert_eq!(setting("hnsw.iterative_scan").as_deref(), Some("relaxed_order"));
    assert_eq!(setting("max_parallel_workers_per_gather").as_deref(), Some("1"));
    assert_eq!(changed(&given().run().exits(0).state("unchanged")), 0);
    let second = given().with("--ef-search", 250).run().exits(0);
    assert_eq!((seen(&second, 0, "hnsw.ef_search"), changed(&second)), ("250".into(), 1));
    // What somebody sets after tune is theirs.
    db.run(&format!("alter database {} set max_parallel_workers_per_gather = 3", db.name()));
    tune(&db.url()).arg("--reset").run().exits(0).state("reset");
    assert_eq!(setting("hnsw.ef_search").as_deref(), Some("60"), "the value from before the first run");
    assert_eq!(setting("hnsw.iterative_scan"), None);
    assert_eq!(setting("maintenance_work_mem"), memory);
    assert_eq!(setting("max_parallel_workers_per_gather").as_deref(), Some("3"));
    let unknown = tune(&db.url()).arg("--reset").run().exits(2);
    unknown.says("nothing tells whether vecload tune").says("RESET hnsw.ef_search");
}

#[test]
fn a_setting_that_does_not_take_effect_is_a_failure_with_its_cause() {
    let db = Db::new();
    let role: String = db.one("select quote_ident(current_user)");
    let database = db.name();
    db.run(&format!("alter role {role} in database {database} set hnsw.ef_search = 41"));
    let told = tune(&db.url()).run();
    db.run(&format!("alter role {role} in database {database} reset hnsw.ef_search"));
    let cure = format!("IN DATABASE \"{database}\" RESET hnsw.ef_search");
    told.exits(1).says("hnsw.ef_search is set for the database").says("has 41").says(cure);
    tune(&db.url()).run().exits(0).state("unchanged");
}

#[test]
fn what_cannot_be_set_is_refused_before_anything_is() {
    let db = Db::new();
    for words in [["--ef-search", "0"], ["--ef-search", "1001"], ["--maintenance-work-mem", "1kB"]] {
        tune(&db.url()).arg(words[0]).arg(words[1]).run().exits(2).says("out of range");
    }
    tune(&db.url()).with("--maintenance-work-mem", "much").run().exits(2).says("\"much\" is no size");
    tune(&db.url()).arg("--show").arg("--reset").run().exits(2);
    let role = format!("role_{}", db.name());
    db.run(&format!("create role {role}; alter database {} set role = {role}", db.name()));
    tune(&db.url()).run().exits(2).says("does not own the database").says("connect as one");
    tune(&db.url()).arg("--show").run().exits(0);
    db.run(&format!("alter database {} reset role; drop role {role}", db.name()));
    let none = format!(
        "pg_db_role_setting s join pg_database d on d.oid = s.setdatabase where d.datname = '{}'",
        db.name()
    );
    assert_eq!(db.count(&none), 0);
    let bare = Db::bare();
    tune(&bare.url()).run().exits(2).says("pgvector is not installed").says("vecload migrate");
}

#[test]
fn every_node_of_a_cluster_shows_the_settings_in_its_shards() {
    let Some(cluster) = Cluster::shared() else { return };
    let url = |node: usize| cluster.url(node).replace("/postgres", "/tuned");
    for node in 0..3 {
        let session = cluster.session(node);
        session.run("set client_min_messages to error");
        session.run("create database tuned");
        Session::open(&url(node)).run("set client_min_messages to error; create extension citus");
    }
    let session = Session::open(&url(0));
    session.run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[0]));
    for port in &cluster.ports[1..] {
        session.run(&format!("select citus_add_node('127.0.0.1', {port})"));
    }
    vecload(["migrate", "--dim", "8", "--shards", "4", "--no-index"]).with("--db", url(0)).run().exits(0);
    let told = tune(&url(0)).run().exits(0).state("tuned");
    // Through a coordinator that passes nothing on, as Citus before 13.1 is.
    let alone = format!("{}?options=-c%20citus.enable_ddl_propagation%3Doff", url(0));
    let again = tune(&alone).with("--ef-search", 77).run().exits(0).state("tuned");
    for (outcome, value) in [(&told, "100"), (&again, "77")] {
        for node in 0..3 {
            assert_eq!(seen(outcome, node, "hnsw.ef_search"), value, "node {node}{outcome}");
            let by = &outcome.report["nodes"][node]["by"];
            assert_eq!(by, if node == 0 { "session" } else { "shard" }, "node {node}{outcome}");
        }
    }
    // The session's own value stays on the coordinator: the others were asked where the rows are.
    let own = tune(&format!("{}?options=-c%20hnsw.ef_search%3D33", url(0))).arg("--show").run().exits(0);
    assert_eq!(
        (seen(&own, 0, "hnsw.ef_search"), seen(&own, 1, "hnsw.ef_search")),
        ("33".into(), "77".into())
    );
    session.run("create role tuner login");
    session.run("alter database tuned owner to tuner");
    for node in 1..3 {
        Session::open(&url(node))
            .run("set citus.enable_ddl_propagation to off; alter database tuned owner to tuner");
    }
    session.run("grant all on all tables in schema public to tuner");
    let owner = url(0).replace("vecload@", "tuner@");
    tune(&owner)
        .run()
        .exits(2)
        .says("role tuner may not set hnsw.ef_search on workers")
        .says("GRANT SET ON PARAMETER");
    tune(&url(0)).arg("--reset").run().exits(0).state("reset");
    let left = "select count(*) from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
        where d.datname = 'tuned'";
    for node in 0..3 {
        assert_eq!(cluster.session(node).one::<i64>(left), 0, "node {node}");
    }
}
