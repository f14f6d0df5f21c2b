//! `vecload migrate` on a cluster: what is distributed and how, and what is told before anything is changed.

use super::cluster::Cluster;
use super::program::{Outcome, vecload};
use super::rows::Rows;
use super::server::make_table;
use super::session::Session;

fn migrate(cluster: &Cluster, table: &str, words: &[&str]) -> Outcome {
    cluster.vecload(&[&["migrate", "--dim", "8", "--no-index", "--table", table], words].concat())
}

/// How Citus keeps a table.
fn kept(session: &Session, table: &str) -> Vec<String> {
    session.column(&format!(
        "select partmethod::text || ' ' || coalesce(column_to_column_name(logicalrelid, partkey), '')
         from pg_dist_partition where logicalrelid = to_regclass('{table}')"
    ))
}

#[test]
fn shards_have_their_vectors_in_line_where_the_table_has() {
    let Some(cluster) = Cluster::shared() else { return };
    let words = [
        "migrate",
        "--dim",
        "1536",
        "--shards",
        "4",
        "--no-index",
        "--vectors",
        "inline",
        "--table",
        "lined",
    ];
    cluster.vecload(&words).exits(0);
    let shards = "select count(*) from run_command_on_shards('lined',
        'select reloptions from pg_class where oid = ''%s''::regclass')
        where result = '{toast_tuple_target=8160}'";
    assert_eq!(cluster.session(0).one::<i64>(shards), 4);
    cluster.vecload(&words).exits(0);
}

#[test]
fn a_table_with_rows_is_distributed_when_asked_with_its_rows_its_options_and_its_ledger() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    make_table(&session, "filled", 8);
    session.run("alter table filled alter embedding set storage plain");
    session.run("alter table filled set (toast.autovacuum_enabled = false)");
    session.run("alter table filled alter user_id set (n_distinct = 5)");
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(2_000, 8);
    let path = rows.write(dir.path(), "filled.parquet");
    let load = || cluster.load(&path, "filled").with("--index", "none").run();
    load().exits(0).rows(2_000, 0, 0);

    let left = migrate(cluster, "filled", &["--json"]).exits(0).says("stays local").says("--distribute");
    assert_eq!(left.report["distributed_by"], serde_json::Value::Null);
    assert_eq!(left.report["citus"]["table"], "local");
    assert_eq!(kept(&session, "filled"), Vec::<String>::new());

    let done = migrate(cluster, "filled", &["--distribute", "--shards", "6", "--json"]).exits(0);
    let done = done.says("distributed the rows").says("user_id has lost its n_distinct");
    assert_eq!((&done.report["distributed_by"], &done.report["shards"]), (&"channel_id".into(), &6.into()));
    let nodes = done.report["citus"]["nodes"].as_array().expect("nodes");
    let shards: Vec<i64> = nodes.iter().map(|node| node["shards"].as_i64().expect("a number")).collect();
    assert_eq!(shards, [0, 3, 3]);
    Rows::are_all_in(&[&rows], &session, "filled");
    // The table of the coordinator keeps no hidden copy of the rows.
    assert_eq!(session.one::<i64>("select pg_relation_size('filled')"), 0);
    let on_shards = |what: &str| -> Vec<String> {
        session.column(&format!(
            "select distinct result from run_command_on_shards('filled', $$select {what}$$)"
        ))
    };
    assert_eq!(
        on_shards("attstorage from pg_attribute where attrelid = '%s'::regclass and attname = 'embedding'"),
        ["p"]
    );
    assert_eq!(
        on_shards(
            "t.reloptions from pg_class t join pg_class c on t.oid = c.reltoastrelid where c.oid = '%s'::regclass"
        ),
        ["{autovacuum_enabled=false}"]
    );
    // What was loaded before is known after.
    load().exits(0).state("already_loaded");

    migrate(cluster, "filled", &["--distribute"]).exits(0).says("is distributed already").answers("6 shards");
    migrate(cluster, "filled", &[]).exits(0).never_says("already");
    let told = migrate(cluster, "filled", &["--shards", "7"]).exits(2).says("has 6 shards");
    told.says(r#"alter_distributed_table('"public"."filled"', shard_count => 7)"#);
}

/// Makes tables that can't be distributed as they are; what is told to mend them does.
#[test]
fn what_forbids_distribution_is_told_before_with_what_mends_it() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let rest = "channel_id bigint not null, embedding vector(8)";
    for (table, columns, said, cure) in [
        (
            "bad_pkey",
            format!("id bigint default 1 primary key, {rest}"),
            "the primary key of public.bad_pkey is over id, without channel_id",
            r#"alter table "public"."bad_pkey" drop constraint "bad_pkey_pkey", add primary key ("id", "channel_id");"#,
        ),
        (
            "bad_unique",
            format!("code text constraint one_code unique, {rest}"),
            "a unique constraint of public.bad_unique is over code",
            r#"alter table "public"."bad_unique" drop constraint "one_code", add unique ("code", "channel_id");"#,
        ),
        (
            "bad_bigserial",
            format!("id bigserial, {rest}"),
            "owns its sequence",
            "alter sequence bad_bigserial_id_seq as bigint owned by none;",
        ),
        (
            "bad_serial",
            format!("id serial, {rest}"),
            "(integer) owns its sequence",
            "alter table \"public\".\"bad_serial\" alter column \"id\" type bigint; \
             alter sequence bad_serial_id_seq as bigint owned by none;",
        ),
        (
            "bad_identity",
            format!("id bigint generated always as identity, {rest}"),
            "is an identity",
            "create sequence NAME as bigint; alter table \"public\".\"bad_identity\" alter \"id\" drop identity, \
             alter \"id\" set default nextval('NAME'); \
             select setval('NAME', max(\"id\")) from \"public\".\"bad_identity\";",
        ),
        (
            "bad_default",
            format!("id int default nextval('bad_default_s'), {rest}"),
            "workers can draw only bigint",
            r#"alter table "public"."bad_default" alter column "id" type bigint;"#,
        ),
        (
            "bad_nulls",
            "channel_id bigint, embedding vector(8)".to_string(),
            "has rows without channel_id",
            r#"update "public"."bad_nulls" set "channel_id" = … where "channel_id" is null;"#,
        ),
    ] {
        session.run("create sequence if not exists bad_default_s");
        session.run(&format!("create table {table} ({columns})"));
        session.run(&format!("insert into {table} (embedding, channel_id) values ('[1,2,3,4,5,6,7,8]', 3)"));
        if table == "bad_nulls" {
            session.run("insert into bad_nulls (embedding) values ('[1,2,3,4,5,6,7,8]')");
        }
        migrate(cluster, table, &["--distribute"]).exits(2).says(said).says(cure);
        assert_eq!(kept(&session, table), Vec::<String>::new());
        for statement in cure.replace("NAME", "bad_mended_s").replace('…', "1").split_inclusive(';') {
            session.run(statement);
        }
        migrate(cluster, table, &["--distribute"]).exits(0);
        assert_eq!(kept(&session, table), ["h channel_id"]);
    }
    session.run("create table bad_index (code text, channel_id bigint not null, embedding vector(8))");
    session.run("create unique index bad_index_code on bad_index (lower(code))");
    migrate(cluster, "bad_index", &[])
        .exits(2)
        .says("a unique index of public.bad_index")
        .says("drop index bad_index_code");
    session.run("create table bad_columns (id bigint, embedding vector(8))");
    migrate(cluster, "bad_columns", &[]).exits(2).says("has no column channel_id");
}

#[test]
fn a_table_that_citus_keeps_in_another_way_is_told_apart() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    for (table, sql, said, mended) in [
        ("kept_reference", "select create_reference_table('kept_reference')", "is a reference table", true),
        (
            "kept_local",
            "select citus_add_local_table_to_metadata('kept_local')",
            "is a Citus local table",
            true,
        ),
        (
            "kept_by_user",
            "select create_distributed_table('kept_by_user', 'user_id')",
            "is distributed by user_id, not by channel_id",
            false,
        ),
    ] {
        session.run(&format!(
            "create table {table} (user_id bigint, channel_id bigint not null, embedding vector(8))"
        ));
        session.run(sql);
        let before = kept(&session, table);
        let name = format!("\"public\".\"{table}\"");
        let cure = match mended {
            true => format!("select undistribute_table('{name}');"),
            false => {
                format!("select alter_distributed_table('{name}', distribution_column => 'channel_id');")
            }
        };
        migrate(cluster, table, &[]).exits(2).says(said).says(&cure);
        assert_eq!(kept(&session, table), before);
        migrate(cluster, table, &["--status"]).exits(0).answers("coordinator").answers("worker");
        session.run(cure.trim_end_matches(';'));
        migrate(cluster, table, &["--distribute"]).exits(0);
        assert_eq!(kept(&session, table), ["h channel_id"]);
    }
    // A table without the column follows whatever it was distributed by.
    session.run("create table kept_own (tenant bigint, embedding vector(8))");
    session.run("select create_distributed_table('kept_own', 'tenant')");
    migrate(cluster, "kept_own", &[]).exits(0).answers("by tenant");
    migrate(cluster, "kept_none", &["--shards", "64001"]).exits(2).says("64000");
}

/// A cluster as it is when steps were left out.
#[test]
fn a_cluster_that_is_not_ready_is_told_what_it_lacks() {
    let Some(mut cluster) = Cluster::empty() else { return };
    for node in 0..3 {
        cluster.start_node();
        cluster.session(node).run("create extension citus");
    }
    let address = |node: usize| format!("127.0.0.1:{}", cluster.ports[node]);
    let at = |node: usize, words: &[&str]| {
        let words = ["migrate", "--dim", "8", "--no-index"].iter().chain(words);
        vecload(words).with("--db", cluster.url(node)).run()
    };
    let sessions = [0, 1, 2].map(|node| cluster.session(node));
    let is_untouched = |node: usize| {
        let made = "to_regclass('chunks') is not null or to_regnamespace('vecload_ledger') is not null
                    or exists (select from pg_extension where extname = 'vector')";
        assert!(!sessions[node].one::<bool>(&format!("select {made}")), "node {node} is as it was");
    };

    // Two servers, of which the second does not know its own address.
    sessions[1].run(&format!("select citus_add_node('127.0.0.1', {})", cluster.ports[2]));
    at(1, &[]).exits(2).says("not registered in its own cluster").says("citus_set_coordinator_host");
    is_untouched(1);
    at(1, &["--status"]).exits(0).answers("not registered").answers(&address(2));
    sessions[1].run(&format!("select citus_set_coordinator_host('127.0.0.1', {})", cluster.ports[1]));

    if sessions[2].one::<bool>("select current_setting('server_version_num')::int >= 180000") {
        cluster.hide_vector(2);
        at(1, &[])
            .exits(2)
            .says(format!("worker {} has no extension vector", address(2)))
            .says("postgresql-NN-pgvector");
        is_untouched(1);
        sessions[2].run("alter system reset extension_control_path");
        sessions[2].run("select pg_reload_conf()");
        sessions[2].wait_until("exists (select from pg_available_extensions where name = 'vector')");
    }
    at(2, &[]).exits(2).says("is a worker").says(format!("connect to the coordinator, {}", address(1)));
    at(2, &["--status"]).exits(0).answers("a worker");
    cluster.crash(2);
    at(1, &[]).exits(2).says(format!("worker {} could not be asked", address(2)));
    is_untouched(1);
    cluster.revive(2);
    at(1, &["--json"]).exits(0);

    // A server alone.
    at(0, &["--distribute"]).exits(0).says("the cluster has no worker").answers("by channel_id, 32 shards");
    sessions[0].run("drop table chunks");
    let own = format!(
        "select citus_set_node_property('localhost', {}, 'shouldhaveshards', false)",
        cluster.ports[0]
    );
    sessions[0].run(&own);
    at(0, &[]).exits(2).says("no node of the cluster takes shards").says("vecload cluster add");
    assert!(!sessions[0].one::<bool>("select to_regclass('chunks') is not null"));
}
