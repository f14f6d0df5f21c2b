//! The ledger: loads that are not finished, books that balance, and whether the rows it knows are in the table.

use super::cluster::Cluster;
use super::relations::Relations;
use super::{Answer, Check, counted, listed, made};
use crate::error::Result;
use crate::index::IndexDefinition;
use crate::ledger::audit::{self, Books, Recorded};
use crate::postgres::Session;
use crate::postgres::catalog::Target;

/// Looks at the ledger, and with `count` at the rows.
pub(super) async fn checks(
    session: &Session,
    cluster: &Cluster,
    target: &Target,
    relations: &Relations,
    count: bool,
    tell: &dyn Fn(&str),
) -> Result<Vec<Check>> {
    let loads = made(session, "loads", loads(session, target)).await?;
    let ledger = made(session, "ledger", ledger(session, cluster, target)).await?;
    let counts = match cluster.silent() {
        _ if !count => Check::skip("counts", "the rows were not counted: --no-count"),
        _ if !relations.readable => {
            Check::skip("counts", "this role may not read the table: it needs SELECT")
        }
        Some(node) => Check::skip("counts", format!("rows can't be counted: {} does not answer", node.name)),
        None => {
            let answer = counts(session, target, relations, tell).await;
            super::settled(session, "counts", answer)?.unwrap_or_else(|check| check)
        }
    };
    Ok(vec![loads, ledger, counts])
}

/// Whether the table has a ledger; why not, otherwise.
async fn absent(session: &Session) -> Answer<Option<&'static str>> {
    let row = session
        .query_one(
            "select l.oid is not null as there,
                 has_schema_privilege(l.oid, 'usage') as may_enter,
                 exists (select from pg_class c where c.relnamespace = l.oid and c.relname = 'loads') as begun,
                 (select count(*) = 4 from pg_class c where c.relnamespace = l.oid
                     and c.relname in ('loads', 'sources', 'rejects', 'current_blocks')) as complete,
                 (select bool_and(has_table_privilege(c.oid, 'select')) from pg_class c where c.relnamespace = l.oid
                     and c.relname in ('loads', 'sources', 'rejects', 'current_blocks')) as may_read
             from (select to_regnamespace('vecload_ledger')::oid) as l(oid)",
            &[],
        )
        .await?;
    let is = |column| row.get::<_, Option<bool>>(column).unwrap_or_default();
    Ok(if !is("there") {
        Some("there is no ledger: vecload has loaded nothing into this database")
    } else if !is("may_enter") {
        Some("this role may not look into the ledger: it needs usage on the schema vecload_ledger")
    } else if !is("begun") {
        Some("there is no ledger on this server: with Citus it is on the coordinator")
    } else if !is("complete") {
        Some("the ledger was made by an older vecload: vecload migrate brings it up to date")
    } else if !is("may_read") {
        Some("this role may not look into the ledger: it needs select on the tables of vecload_ledger")
    } else {
        None
    })
}

async fn loads(session: &Session, target: &Target) -> Answer<Check> {
    if let Some(why) = absent(session).await? {
        return Ok(Check::skip("loads", why));
    }
    let loads = audit::loads(session, target).await?;
    if loads.is_empty() {
        return Ok(Check::pass("loads", "none yet"));
    }
    let mut check =
        Check::pass("loads", format!("{}, all finished", counted(loads.len() as i64, "load", "loads")));
    let mut open = Vec::new();
    for load in &loads {
        let id = load.load;
        match load.state.as_str() {
            "running" => {
                open.push(format!("load {id} (running)"));
                check.warn(
                    format!("load {id} is running since {}: what is found below may change", load.started),
                    "run vecload verify again when it has ended",
                );
            }
            "undoing" | "forgetting" => {
                open.push(format!("load {id} ({})", load.state));
                check.fail(
                    format!("load {id} was being taken back or forgotten, and that was broken off"),
                    format!("vecload loads {} {id}", if load.state == "undoing" { "undo" } else { "forget" }),
                );
            }
            // Who gave --limit or --max-rejects knows.
            "complete" | "rejects" | "limited" => {}
            state if load.open_sources > 0 => {
                open.push(format!("load {id} ({state})"));
                check.warn(
                    format!(
                        "load {id} ended unfinished ({state}), with {}",
                        counted(load.open_sources, "source that is not all in", "sources that are not all in")
                    ),
                    format!(
                        "run its command again, which goes on where it stopped, or take it back: vecload loads undo \
                         {id}"
                    ),
                );
            }
            _ => {}
        }
        if !load.dropped_indexes.is_empty() && load.state != "running" {
            let name = |sql: &String| {
                IndexDefinition::parse(sql.clone()).map_or_else(|| sql.clone(), |index| index.name)
            };
            let names: Vec<String> = load.dropped_indexes.iter().map(name).collect();
            let cause = format!("load {id} has dropped indexes that are not back: {}", listed(&names));
            let cure = "run its command again, which builds them at the end; the standard ones: vecload migrate, with \
                        the table's --dim and --type";
            // A load that will go on brings them back itself.
            match load.open_sources > 0 {
                true => check.warn(cause, cure),
                false => check.fail(cause, cure),
            }
        }
    }
    if !open.is_empty() {
        let loads = counted(loads.len() as i64, "load", "loads");
        check.found = format!("{loads}; not finished: {}", listed(&open));
    }
    Ok(check)
}

async fn ledger(session: &Session, cluster: &Cluster, target: &Target) -> Answer<Check> {
    if let Some(why) = absent(session).await? {
        return Ok(Check::skip("ledger", why));
    }
    let asks_workers = cluster.silent().is_none();
    let Books { sources, complete, rows, rejected, unbalanced } =
        audit::books(session, target, asks_workers).await?;
    let found = format!(
        "{}, {complete} complete: {} loaded, {rejected} rejected",
        counted(sources, "source", "sources"),
        counted(rows, "row", "rows")
    );
    let mut check = Check::pass("ledger", found);
    if !unbalanced.is_empty() {
        check.fail(
            format!(
                "of sources that are complete, loaded and rejected rows do not add up: {}",
                listed(&unbalanced)
            ),
            "the ledger's tables were changed by hand, or this is a bug of vecload: keep a copy of the schema \
             vecload_ledger and report it",
        );
    }
    Ok(check)
}

/// Counts the rows, all of them and by the ids of each load.
async fn counts(
    session: &Session,
    target: &Target,
    relations: &Relations,
    tell: &dyn Fn(&str),
) -> Answer<Check> {
    if let Some(why) = absent(session).await? {
        return Ok(Check::skip("counts", why));
    }
    // Before the rows: what is committed in between is in the table, and only there.
    let recorded = audit::recorded(session, target).await?;
    let about = match relations.rows() {
        Some(rows) => format!("about {}", counted(rows, "row", "rows")),
        None => "the rows".into(),
    };
    tell(&format!("counting {about} of {}; --no-count leaves that out", target.name));
    session.batch_execute("set statement_timeout = 0").await?;
    let id = target.column("id").filter(|column| column.sequence.is_some()).map(|column| &*column.name);
    Ok(compare(&recorded, &audit::count(session, target, id, &recorded).await?))
}

fn compare(recorded: &[Recorded], there: &audit::Counted) -> Check {
    let known: i64 = recorded.iter().map(|load| load.rows).sum();
    let rows = counted(there.rows, "row", "rows");
    let known = indicatif::HumanCount(known.unsigned_abs());
    let mut check = Check::pass("counts", format!("{rows}; the ledger knows {known}"));
    let (mut by_id, mut without_ids) = (0, 0);
    for load in recorded {
        let id = load.load;
        let Some(found) = there.by_load.get(&id).copied().filter(|_| load.has_ids) else {
            without_ids += load.rows;
            continue;
        };
        by_id += found;
        let missing = load.rows - found;
        if missing < 0 {
            check.fail(
                format!(
                    "load {id} has {} rows more than it has committed: rows are in the table twice",
                    -missing
                ),
                "rows were copied with their ids, or this is a bug of vecload: report it",
            );
        } else if missing > 0 {
            let how = match load.elsewhere {
                true if found == 0 => "the table was truncated, or restored from before them",
                _ => "deleted by hand, or lost",
            };
            let back = if found == 0 { "forget" } else { "undo" };
            let (of, gone) =
                (counted(load.rows, "row", "rows"), indicatif::HumanCount(missing.unsigned_abs()));
            check.warn(
                format!("{gone} of {of} of load {id} are not in the table: {how}"),
                format!("nothing, if that was meant; to have them again: vecload loads {back} {id}, then load again"),
            );
        }
    }
    let others = there.rows - by_id - without_ids;
    if others > 0 {
        check.found.push_str(&format!("; {others} came in another way"));
    } else if others < 0 {
        check.warn(
            format!("at least {} rows that the ledger knows are not in the table: deleted by hand, or lost", -others),
            "nothing, if that was meant; to have them again: vecload loads forget ID, empty the table, load again",
        );
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn recorded(load: i64, rows: i64, has_ids: bool, elsewhere: bool) -> Recorded {
        Recorded { load, rows, has_ids, elsewhere, ids: Vec::new() }
    }

    fn compared(loads: &[Recorded], rows: i64, by_load: &[(i64, i64)]) -> Check {
        let by_load = by_load.iter().copied().collect();
        compare(loads, &audit::Counted { rows, by_load })
    }

    #[test]
    fn rows_that_are_missing_doubled_or_of_others_are_told_apart() {
        let load = [recorded(1, 100, true, false)];
        assert_eq!(compared(&load, 100, &[(1, 100)]).outcome, Outcome::Pass);
        let more = compared(&load, 130, &[(1, 100)]);
        assert!(more.outcome == Outcome::Pass && more.found.contains("30 came in another way"), "{more:?}");
        // Others' rows do not make up for missing ones.
        let missing = compared(&load, 130, &[(1, 97)]);
        assert_eq!(missing.outcome, Outcome::Warn);
        assert!(missing.cause.unwrap().contains("3 of 100 rows of load 1"));
        assert!(missing.cure.unwrap().contains("undo 1"));
        assert_eq!(compared(&load, 101, &[(1, 101)]).outcome, Outcome::Fail);
        let emptied = compared(&[recorded(1, 100, true, true)], 0, &[(1, 0)]);
        assert!(emptied.cause.unwrap().contains("truncated") && emptied.cure.unwrap().contains("forget 1"));
    }

    #[test]
    fn without_ids_all_rows_are_compared() {
        let loads = [recorded(1, 100, true, false), recorded(2, 50, false, false)];
        assert_eq!(compared(&loads, 150, &[(1, 100)]).outcome, Outcome::Pass);
        let short = compared(&loads, 149, &[(1, 100)]);
        assert!(short.outcome == Outcome::Warn && short.cause.unwrap().contains("at least 1 rows"));
    }
}
