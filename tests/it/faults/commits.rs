//! Every COMMIT of a load is lost once, and every answer to one: run again, the load is as if nothing had been.

use super::own_server::OwnServer;
use super::proxy::{Ambush, Ending, Loss, Proxy};
use crate::program::Load;
use crate::rows::Rows;
use crate::server::{LEDGER, make_table};

fn each_commit_is_lost_once(loss: Loss, ending: Ending) {
    let server = OwnServer::start();
    let proxy = Proxy::to(&server.socket());
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(4_000, 16).group(1_000).bad([7, 1_234, 3_999]);
    let path = rows.write(dir.path(), "rows.parquet");
    let mut after = 0;
    loop {
        let database = format!("lost_{after}");
        server.session("postgres").run(&format!("create database {database}"));
        let session = server.session(&database);
        make_table(&session, "chunks", 16);
        let load = || {
            let load = Load::of(&path).with("--db", proxy.url(&database)).with("--max-rejects", 3);
            load.with("--index", "none").with("--writers", 2).run()
        };
        proxy.lie_in_ambush(Ambush { after, loss, ending });
        let struck = load();
        let has_met_none = proxy.leave_ambush();
        let told = load().exits(3);
        assert_eq!(told.report["rows"]["read"], 4_000, "after {struck}{told}");
        Rows::are_all_in(&[&rows], &session, "chunks");
        let known: i64 = session.one(&format!("select sum(rows)::bigint from {LEDGER}.blocks"));
        assert_eq!((known, session.count(&format!("{LEDGER}.rejects"))), (3_997, 3), "after {struck}");
        if has_met_none {
            struck.exits(3);
            break;
        }
        assert!([0, 1, 2, 3].contains(&struck.code()), "COMMIT {after} is lost{struck}");
        after += 1;
    }
    assert!(after >= 8, "{after} transactions, and each partition has a block at least");
}

#[test]
fn a_load_that_loses_the_answer_to_any_commit_goes_on() {
    each_commit_is_lost_once(Loss::Answer, Ending::Close);
}

#[test]
fn a_load_that_loses_any_commit_goes_on() {
    each_commit_is_lost_once(Loss::Request, Ending::Reset);
}
