//! Loads of a distributed table: straight into its shards, through the coordinator, and while shards move.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use vecload::partition::hash::hash_int8;

use super::cluster::Cluster;
use super::rows::Rows;
use super::server::LEDGER;

fn migrate(cluster: &Cluster, table: &str, dim: usize, shards: u32) {
    let (dim, shards) = (dim.to_string(), shards.to_string());
    let words = ["migrate", "--dim", &dim, "--shards", &shards, "--no-index", "--table", table];
    cluster.vecload(&words).exits(0);
}

#[test]
fn each_route_brings_every_row_to_its_shard() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(20_000, 24).group(3_000).bad([5_000]);
    let path = rows.write(dir.path(), "rows.parquet");
    for (route, says) in [("auto", "shards"), ("shards", "shards"), ("coordinator", "coordinator")] {
        let table = &format!("routed_{route}");
        migrate(cluster, table, 24, 8);
        let load = || {
            let load = cluster.load(&path, table).with("--route", route).with("--index", "none");
            load.with("--max-rejects", 1).with("--memory", "32MiB")
        };
        let told = load().run().exits(3).rows(19_999, 1, 0).says(format!("route {says}"));
        assert_eq!(told.report["route"], says);
        Rows::are_all_in(&[&rows], &session, table);
        // A row in a shard that is not its channel's is found by the fan-out, and not by its channel.
        for channel in session.column::<i64>(&format!("select distinct channel_id from {table}")) {
            let all = session.count(&format!("{table} where channel_id + 0 = {channel}"));
            assert_eq!(
                session.count(&format!("{table} where channel_id = {channel}")),
                all,
                "channel {channel}"
            );
        }
        let books = format!(
            "select coalesce(sum(rows), 0)::bigint from {LEDGER}.current_blocks
            where target = '{table}'::regclass"
        );
        assert_eq!(session.one::<i64>(&books), 19_999);
        load().run().exits(3).state("already_loaded");
    }
}

#[test]
fn a_channel_hashes_to_the_shard_that_citus_gives_it() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let extremes = [0, 1, -1, i64::MAX, i64::MIN, 1 << 31, -(1 << 31), 1 << 32, (1 << 32) - 1, -(1 << 32)];
    let scattered = (0..5_000u64).map(|number| {
        let hash = super::rows::hash(number, 4_242).cast_signed();
        // Of every size.
        hash >> (number % 64)
    });
    let channels: Vec<i64> = extremes.into_iter().chain(scattered).collect();
    let theirs = session.rows("select worker_hash(c) from unnest($1::bigint[]) c", &[&channels]);
    for (channel, row) in channels.iter().zip(&theirs) {
        assert_eq!(hash_int8(*channel), row.get::<_, i32>(0), "channel {channel}");
    }
    let narrow: Vec<i32> = channels.iter().filter_map(|channel| i32::try_from(*channel).ok()).collect();
    assert!(narrow.len() > 1_000);
    let theirs = session.rows("select worker_hash(c) from unnest($1::integer[]) c", &[&narrow]);
    for (channel, row) in narrow.iter().zip(&theirs) {
        assert_eq!(hash_int8(i64::from(*channel)), row.get::<_, i32>(0), "channel {channel} of four bytes");
    }
}

#[test]
fn an_integer_channel_of_four_bytes_and_names_to_be_quoted_take_the_same_route() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    session.run("create schema \"Odd one\"");
    session.run(
        "create table \"Odd one\".\"My \"\"chunks\"\"\" (id bigint not null, channel_id integer not null,
             user_id bigint, content text, embedding vector(16), metadata jsonb, created_at timestamptz,
             primary key (id, channel_id))",
    );
    session.run("create sequence \"Odd one\".ids");
    session
        .run("alter table \"Odd one\".\"My \"\"chunks\"\"\" alter id set default nextval('\"Odd one\".ids')");
    session.run("select create_distributed_table('\"Odd one\".\"My \"\"chunks\"\"\"', 'channel_id', shard_count => 5)");
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(5_000, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let table = "\"Odd one\".\"My \"\"chunks\"\"\"";
    let load = cluster.load(&path, table).with("--route", "shards").with("--index", "none");
    load.run().exits(0).rows(5_000, 0, 0);
    let columns = "content, channel_id::bigint as channel_id, user_id, embedding, metadata";
    Rows::are_all_in(&[&rows], &session, &format!("(select {columns} from {table}) c"));
}

#[test]
fn a_killed_load_goes_on_by_another_route_and_is_taken_back() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    migrate(cluster, "by_turns", 64, 8);
    let rows = Rows::new(60_000, 64).from(2_000_000);
    let dir = tempfile::tempdir().expect("a directory");
    let path = rows.write(dir.path(), "rows.parquet");
    let load = |route: &str| {
        let load = cluster.load(&path, "by_turns").with("--index", "none").with("--memory", "32MiB");
        load.with("--route", route)
    };
    for (number, route) in ["shards", "coordinator", "shards"].iter().enumerate() {
        let before = session.count("by_turns");
        let running = load(route).with("--writers", 1 + number).start();
        session.wait_until(&format!("(select count(*) from by_turns) > {before}"));
        running.kill();
    }
    load("auto").run().exits(0).state("complete");
    Rows::are_all_in(&[&rows], &session, "by_turns");
    let id: i64 =
        session.one(&format!("select load_id from {LEDGER}.loads where target = 'by_turns'::regclass"));
    cluster.vecload(&["loads", "undo", &id.to_string()]).exits(0).answers("60,000 rows deleted");
    assert_eq!(session.count("by_turns"), 0);
}

/// A load that was killed while all that it has committed is still on the workers.
#[test]
fn rows_that_a_killed_load_has_left_on_the_workers_are_listed_verified_and_taken_back() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    migrate(cluster, "left_there", 64, 8);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(60_000, 64).from(3_000_000).write(dir.path(), "rows.parquet");
    let load = cluster.load(&path, "left_there").with("--index", "none").with("--memory", "32MiB");
    let running = load.with("--route", "shards").start();
    session.wait_until("(select count(*) from left_there) > 0");
    running.kill();
    let id: i64 =
        session.one(&format!("select load_id from {LEDGER}.loads where target = 'left_there'::regclass"));
    assert_eq!(session.count(&format!("{LEDGER}.blocks where load_id = {id}")), 0);
    // Whatever was on its way when the loader died has come, or never will.
    session.wait_until(&format!(
        "not exists (select from run_command_on_workers('select count(*) from pg_stat_activity
             where application_name like ''vecload load {id} %''') where result <> '0')"
    ));
    let there = session.count("left_there");
    let id = id.to_string();
    let shown = cluster.vecload(&["loads", "show", &id, "--json"]).exits(0).report;
    assert_eq!(shown["load"]["rows"], there);
    assert_eq!(shown["sources"][0]["loaded"], there);
    let loads = cluster.vecload(&["loads", "--json"]).exits(0).report;
    let mut loads = loads["loads"].as_array().expect("loads").iter();
    let listed = loads.find(|load| load["load"] == shown["load"]["load"]).expect("the load");
    assert_eq!(listed["rows"], there);
    let verified = cluster.vecload(&["verify", "--table", "left_there", "--json"]).report;
    let checks = verified["checks"].as_array().expect("checks");
    let check = |name| checks.iter().find(|check| check["name"] == name).expect("a check").clone();
    assert_eq!(check("counts")["outcome"], "pass", "{verified}");
    let knows = check("counts")["found"].to_string();
    assert!(knows.contains("the ledger knows") && !knows.contains("another way"), "{knows}");
    assert_eq!(check("ledger")["outcome"], "pass", "{verified}");
    cluster.vecload(&["loads", "undo", &id]).exits(0);
    assert_eq!(session.count("left_there"), 0);
}

#[test]
fn rows_that_a_shard_refuses_are_rejects() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let rows = Rows::new(6_000, 16);
    let dir = tempfile::tempdir().expect("a directory");
    let path = rows.write(dir.path(), "choosy.parquet");
    let refused: Vec<u64> = (0..6_000).filter(|row| row % 701 == 3).collect();
    let count = refused.len() as u64;
    let rows = rows.bad(refused);
    for route in ["shards", "coordinator"] {
        let table = &format!("choosy_{route}");
        migrate(cluster, table, 16, 8);
        session
            .run(&format!("alter table {table} add constraint odd check ((metadata->>'n')::int % 701 <> 3)"));
        let load = |limit: &str| {
            let load = cluster.load(&path, table).with("--index", "none").with("--route", route);
            load.with("--max-rejects", limit)
        };
        load("0").run().exits(4).says("odd");
        load("all").run().exits(3).state("rejects");
        Rows::are_all_in(&[&rows], &session, table);
        let all = load("all").run().exits(3).state("already_loaded").rows(0, count, 6_000 - count);
        let id = all.load().to_string();
        cluster.vecload(&["loads", "rejects", &id]).exits(0).answers("odd").answers("23514");
    }
}

/// What a worker says during a COPY through the coordinator comes without its code, and at some row.
#[test]
fn a_worker_that_is_full_stops_the_load_and_is_no_matter_of_rows() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(6_000, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let room = |says: &str| {
        session.run(&format!(
            "create or replace function room(number integer) returns boolean language plpgsql immutable
             as $$ begin {says} return true; end $$"
        ));
    };
    for route in ["shards", "coordinator"] {
        let table = &format!("full_{route}");
        migrate(cluster, table, 16, 8);
        room(
            "if number = 3000 then
                 raise exception 'could not extend file: No space left on device' using errcode = 'disk_full';
             end if;",
        );
        session.run(&format!("alter table {table} add constraint room check (room((metadata->>'n')::int))"));
        let load = || {
            let load = cluster.load(&path, table).with("--index", "none").with("--route", route);
            load.with("--max-rejects", "all")
        };
        let stopped = load().run().exits(1).says("53100").says("free space");
        let node = |node: &String| stopped.stderr.contains(node.as_str());
        let nodes = session.column::<String>("select nodename || ':' || nodeport from pg_dist_node");
        assert!(nodes.iter().any(node), "it names the worker{stopped}");
        room("");
        load().run().exits(0).state("complete");
        Rows::are_all_in(&[&rows], &session, table);
    }
}

#[test]
fn a_role_that_owns_nothing_writes_shards_behind_another_guard() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    migrate(cluster, "of_others", 16, 4);
    let dir = tempfile::tempdir().expect("a directory");
    let first = Rows::new(1_000, 16);
    let path = first.write(dir.path(), "first.parquet");
    cluster.load(&path, "of_others").with("--index", "none").with("--route", "shards").run().exits(0);
    session.run("create role loader login");
    for right in [
        "grant select, insert on of_others to loader",
        "grant usage, select on all sequences in schema public to loader",
        "grant usage on schema vecload_ledger to loader",
        "grant select, insert, update, delete on all tables in schema vecload_ledger to loader",
        "grant usage, select on all sequences in schema vecload_ledger to loader",
    ] {
        session.run(right);
    }
    let second = Rows::new(3_000, 16).from(10_000);
    let path = second.write(dir.path(), "second.parquet");
    let url = cluster.url(0).replace("vecload@", "loader@");
    let group: i32 =
        session.one("select colocationid from pg_dist_partition where logicalrelid = 'of_others'::regclass");
    let load = super::program::Load::of(&path).with("--db", &url).table("of_others");
    load.with("--index", "none").with("--route", "shards").run().exits(0).says("route shards");
    Rows::are_all_in(&[&first, &second], &session, "of_others");

    // Without a right on the tables that the ledger has on the workers there is still the other route.
    session.run(&format!("revoke update on {LEDGER}.shard_fences_{group} from loader"));
    let third = Rows::new(500, 16).from(20_000);
    let path = third.write(dir.path(), "third.parquet");
    let load = |route| {
        let load = super::program::Load::of(&path).with("--db", &url).table("of_others");
        load.with("--index", "none").with("--route", route).run()
    };
    load("shards").exits(2).says("may not write the ledger's tables").says("shard_fences_");
    load("auto").exits(0).says("route coordinator (this role may not write the ledger's tables");
    Rows::are_all_in(&[&first, &second, &third], &session, "of_others");
}

#[test]
fn a_truncate_in_mid_load_is_noticed() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    migrate(cluster, "emptied", 64, 8);
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(60_000, 64).from(5_000_000).write(dir.path(), "rows.parquet");
    let load = || {
        let load = cluster.load(&path, "emptied").with("--index", "none").with("--memory", "32MiB");
        load.with("--route", "shards")
    };
    let running = load().with("--writers", 2).start();
    session.wait_until("(select count(*) from emptied) > 0");
    session.run("truncate emptied");
    let told = running.outcome().exits(1).says("no longer in public.emptied");
    let id = told.load().to_string();
    // Part of it came after the TRUNCATE.
    cluster.vecload(&["loads", "undo", &id]).exits(0);
    load().run().exits(0).rows(60_000, 0, 0);
}

#[test]
fn a_split_that_a_copy_through_the_coordinator_waits_for_is_no_matter_of_rows() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    migrate(cluster, "split_meanwhile", 64, 4);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(20_000, 64).from(7_000_000);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = || {
        let load = cluster.load(&path, "split_meanwhile").with("--index", "none");
        load.with("--route", "coordinator").with("--retry-for", "2m")
    };
    load().with("--limit", 10).run().exits(0);
    let (shard, middle): (i64, i64) = {
        let row = &session.rows(
            "select shardid, (shardminvalue::bigint + shardmaxvalue::bigint) / 2 from pg_dist_shard
             where logicalrelid = 'split_meanwhile'::regclass order by shardid",
            &[],
        )[0];
        (row.get(0), row.get(1))
    };
    // The split is done, and not committed yet, when the first block comes.
    let splitting = cluster.session(0);
    splitting.run_on_shards(&format!(
        "begin; select citus_split_shard_by_split_points({shard}, array['{middle}'],
            (select array_agg(nodeid::integer order by nodeid) from pg_dist_node where groupid > 0), 'block_writes')"
    ));
    let running = load().start();
    session.wait_until(
        "exists (select from pg_stat_activity where wait_event_type = 'Lock' and query ilike 'copy%split_meanwhile%')",
    );
    splitting.run("commit");
    let told = running.outcome().exits(0).rows(19_990, 0, 10);
    told.says(format!("could not find valid entry for shard {shard}")).says("trying again");
    Rows::are_all_in(&[&rows], &session, "split_meanwhile");
}

#[test]
fn a_route_that_can_not_be_taken_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::shared() else { return };
    let session = cluster.session(0);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let create = |table: &str, more: &str| {
        session.run(&format!(
            "create table {table} (id bigint not null, channel_id bigint not null, user_id bigint, content text,
                 embedding vector(16), metadata jsonb, created_at timestamptz {more})"
        ));
    };
    session.run("create sequence row_ids");
    session.run("create sequence line_numbers");
    session.run("create sequence letter_numbers");
    create("numbered", ", line bigint default nextval('line_numbers')");
    create("lettered", ", line text default 'L' || nextval('letter_numbers')");
    for table in ["numbered", "lettered"] {
        session.run(&format!("alter table {table} alter id set default nextval('row_ids')"));
    }
    session.run("select create_distributed_table('lettered', 'channel_id', shard_count => 4)");
    session.run("select create_distributed_table('numbered', 'channel_id', shard_count => 4)");
    create("twofold", "");
    session.run("set citus.shard_replication_factor = 2");
    session.run(
        "select create_distributed_table('twofold', 'channel_id', shard_count => 4, colocate_with => 'none')",
    );
    create("undistributed", "");
    // The ledger is on the coordinator.
    let load = super::program::Load::of(&path).with("--db", cluster.url(1)).table("twofold");
    load.with("--set", "id=1").run().exits(2).says("is a worker").says("coordinator");
    for (table, reason) in [
        ("numbered", "column line"),
        ("lettered", "column line"),
        ("twofold", "is on 2 nodes"),
        ("undistributed", "not distributed"),
    ] {
        let load = || {
            let load = cluster.load(&path, table).with("--index", "none");
            if table.ends_with("ered") { load } else { load.with("--set", "id=1") }
        };
        load().with("--route", "shards").run().exits(2).says(reason);
        assert_eq!(session.count(table), 0);
        let told = load().run().exits(0);
        assert_eq!(told.report["route"], if table == "undistributed" { "direct" } else { "coordinator" });
        assert_eq!(session.count(table), 500);
    }
}

#[test]
fn a_cluster_that_can_not_take_the_load_says_so_before_the_first_row() {
    let Some(cluster) = Cluster::start(3) else { return };
    let session = cluster.session(0);
    migrate(&cluster, "chunks", 16, 4);
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(2_000, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = |route: &str| cluster.load(&path, "chunks").with("--index", "none").with("--route", route);
    // Sessions of others leave too few connections.
    let free =
        "select current_setting('max_connections')::int - 3 - (select count(*)::int from pg_stat_activity
        where backend_type in ('client backend', 'walsender'))";
    let hold = |left: i32| {
        let mut held = vec![cluster.session(1)];
        // Sessions that have been dropped are gone a moment later.
        loop {
            match held[0].one::<i32>(free) - left {
                0 => return held,
                more if more > 0 => held.push(cluster.session(1)),
                _ => {}
            }
        }
    };
    let held = hold(2);
    load("shards").with("--writers", 12).run().exits(2).says("5 of them for others, and gets 6 writers");
    load("coordinator")
        .with("--writers", 12)
        .run()
        .exits(2)
        .says("12 writers need one each")
        .says("--writers");
    load("coordinator").run().exits(2).says("1 writer need");
    drop(held);
    let port = cluster.ports[2];
    cluster.crash(2);
    for route in ["auto", "shards", "coordinator"] {
        load(route).run().exits(2).says(format!("127.0.0.1:{port}"));
    }
    assert_eq!(session.count(&format!("{LEDGER}.loads")), 0);
    // Said on the command line, a time to wait is kept.
    let mut running = load("shards").with("--retry-for", "2m").start();
    while !running.said().contains("trying again") {
        assert!(!running.has_ended_within(std::time::Duration::from_millis(20)), "{}", running.said());
    }
    cluster.revive(2);
    running.outcome().exits(0).rows(2_000, 0, 0);
    Rows::are_all_in(&[&rows], &session, "chunks");
    // What is loaded already needs no writers.
    let held = hold(2);
    load("coordinator").with("--writers", 12).run().exits(0).state("already_loaded");
    drop(held);
    // A number that nobody has asked for gives way: of 9 connections 5 are left to others, and the load itself asks.
    let path = Rows::new(100, 16).write(dir.path(), "more.parquet");
    let load = || cluster.load(&path, "chunks").with("--index", "none");
    let held = hold(9);
    let told = load().with("--route", "coordinator").with("--limit", 50).run().exits(0);
    assert!(
        told.report["writers"].as_u64().is_some_and(|writers| (1..4).contains(&writers)),
        "{}",
        told.report
    );
    drop(held);
    let told = load().with("--route", "coordinator").run().exits(0);
    assert!(told.report["writers"].as_u64() >= Some(4), "{}", told.report);
    // As many for each of the two workers.
    assert_eq!(told.report["writers"].as_u64().map(|writers| writers % 2), Some(0), "{}", told.report);
}

#[test]
fn a_worker_whose_name_leads_elsewhere_from_here_is_written_through_the_coordinator() {
    let Some(cluster) = Cluster::start(3) else { return };
    let session = cluster.session(0);
    migrate(&cluster, "chunks", 16, 4);
    let port = two_faced(cluster.ports[1], cluster.ports[2]);
    session.run(&format!(
        "select citus_update_node(nodeid, '127.0.0.1', {port}) from pg_dist_node where nodeport = {}",
        cluster.ports[1]
    ));
    // The other server even has tables of the shards' names.
    let elsewhere = cluster.session(2);
    let shards = format!("select shard_name::text from citus_shards where nodeport = {port}");
    for shard in session.column::<String>(&shards) {
        elsewhere.run(&format!("create table if not exists {shard} (id bigint)"));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = || cluster.load(&path, "chunks").with("--index", "none");
    let why = format!("under the name 127.0.0.1:{port} this machine reaches another server");
    session.wait_until("(select bool_and(metadatasynced) from pg_dist_node)");
    load().with("--route", "shards").run().exits(2).says(&why);
    load().run().exits(0).says(&why).says("route coordinator");
    Rows::are_all_in(&[&rows], &session, "chunks");
}

/// A port that leads Citus to one server, and everybody else to another.
fn two_faced(of_citus: u16, of_others: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let serve = move |mut client: TcpStream| -> std::io::Result<()> {
        let mut startup = vec![0; 8];
        client.read_exact(&mut startup)?;
        // A request for TLS is as long.
        if startup[..4] == [0, 0, 0, 8] {
            client.write_all(b"N")?;
            client.read_exact(&mut startup)?;
        }
        let length = u32::from_be_bytes([startup[0], startup[1], startup[2], startup[3]]);
        startup.resize(length as usize, 0);
        client.read_exact(&mut startup[8..])?;
        let is_citus = startup.windows(5).any(|bytes| bytes == b"citus");
        let mut server = TcpStream::connect(("127.0.0.1", if is_citus { of_citus } else { of_others }))?;
        server.write_all(&startup)?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        let answering = named("answers", move || {
            drop(std::io::copy(&mut answers, &mut back));
            back.shutdown(Shutdown::Both)
        })?;
        drop(std::io::copy(&mut client, &mut server));
        server.shutdown(Shutdown::Both)?;
        answering.join().expect("the answers' thread")
    };
    let accept = move || {
        for client in listener.incoming() {
            drop(named("requests", move || client.and_then(serve)));
        }
    };
    named("two-faced", accept).expect("start a thread");
    port
}

fn named<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(work)
}
