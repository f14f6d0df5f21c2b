//! Whether server, cluster, table, indexes, searches and ledger are as they should be: one [`Check`] for each question,
//! with cause and cure where the answer is no.
//!
//! Nothing is written. What a role may not see is skipped, a node that is down is one finding among others, and every
//! check but the counting of rows is bounded in time.

mod books;
mod cluster;
mod indexes;
mod placements;
mod relations;
mod searches;
mod settings;
mod versions;

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::error::SqlState;

use self::cluster::Cluster;
use self::relations::Relations;
use crate::cluster::bound_connects;
use crate::error::{Error, Kind, Result};
use crate::postgres::catalog::{ServerVersions, Target};
use crate::postgres::types::TargetType;
use crate::postgres::{QualifiedName, ServerError, Session, pg_error};

/// The longest a statement of a check may take.
const STATEMENT_MAX: Duration = Duration::from_secs(30);

/// A check is a few statements, and a server that is alive ends each of them in time.
const CHECK_MAX: Duration = Duration::from_secs(120);

/// Names that a message lists; of more it says how many.
const NAMES_SHOWN: usize = 5;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It could not be made, or does not apply.
    Skip,
    /// All is well.
    Pass,
    /// Something to know about; nothing is broken.
    Warn,
    /// Something is broken.
    Fail,
}

impl Outcome {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found; of a check that was skipped, why.
    pub found: String,
    /// What is wrong, where something is.
    pub cause: Option<String>,
    /// What to do about it.
    pub cure: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Pass, found: on_one_line(&found.into()), cause: None, cure: None }
    }

    fn skip(name: &'static str, why: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skip, ..Self::pass(name, why) }
    }

    /// Something to know about. A check may find several such things.
    fn warn(&mut self, cause: impl AsRef<str>, cure: impl AsRef<str>) {
        self.add(Outcome::Warn, cause.as_ref(), cure.as_ref());
    }

    /// Something that is broken, likewise.
    fn fail(&mut self, cause: impl AsRef<str>, cure: impl AsRef<str>) {
        self.add(Outcome::Fail, cause.as_ref(), cure.as_ref());
    }

    fn add(&mut self, outcome: Outcome, cause: &str, cure: &str) {
        self.outcome = self.outcome.max(outcome);
        for (text, more) in [(&mut self.cause, on_one_line(cause)), (&mut self.cure, on_one_line(cure))] {
            match text {
                Some(text) if text.contains(&more) => {}
                Some(text) => *text = format!("{text}; {more}"),
                None => *text = Some(more),
            }
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The table, with its schema where there is one of that name.
    pub table: String,
    /// Whether no check failed.
    pub passed: bool,
    /// Number of checks that passed.
    pub pass: usize,
    /// That gave a warning.
    pub warn: usize,
    /// That failed.
    pub fail: usize,
    /// That were skipped.
    pub skip: usize,
    /// The checks in the order in which they were made.
    pub checks: Vec<Check>,
    /// The versions of the server that was asked.
    pub server: ServerVersions,
}

/// Why a check came to no answer of its own.
enum Trouble {
    Server(tokio_postgres::Error),
    Ours(Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

type Answer<T> = std::result::Result<T, Trouble>;

/// Makes all checks that apply. With `count` the rows are counted, which `tell` announces.
pub async fn verify(
    session: &mut Session,
    name: &QualifiedName,
    count: bool,
    tell: &dyn Fn(&str),
) -> Result<Report> {
    let server = ServerVersions::of(session).await?;
    bound(session, server.citus.is_some()).await?;
    let cluster = match within_time(session, "nodes", Cluster::find(session, &server)).await? {
        Ok(cluster) => cluster,
        Err(check) => return Ok(report(name.to_string(), server, vec![check])),
    };
    let mut checks = versions::checks(&cluster);
    if cluster.citus {
        checks.extend(cluster.checks());
        checks.push(made(session, "network", cluster::network(session, &cluster)).await?);
        checks.push(made(session, "prepared", cluster::prepared(session, &cluster)).await?);
    }
    let target = match Target::look_up(session, name).await {
        Ok(Some(target)) => target,
        Ok(None) => {
            let mut check = Check::pass("table", format!("there is no table {name}"));
            check.fail(
                "the table was not made, or is in another schema or database",
                "make it by vecload migrate, or name the right one with --table and --db",
            );
            checks.push(check);
            return Ok(report(name.to_string(), server, checks));
        }
        Err(error) if error.is_lost() => return Err(error),
        Err(error) => {
            checks.push(failed("table", &error));
            return Ok(report(name.to_string(), server, checks));
        }
    };
    checks.extend(of_table(session, &cluster, &server, &target, count, tell).await?);
    Ok(report(target.name.to_string(), server, checks))
}

async fn of_table(
    session: &mut Session,
    cluster: &Cluster,
    server: &ServerVersions,
    target: &Target,
    count: bool,
    tell: &dyn Fn(&str),
) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let relations = match within_time(session, "table", Relations::find(session, cluster, target)).await? {
        Ok(relations) => relations,
        Err(check) => return Ok(vec![check]),
    };
    checks.push(table(target, &relations));
    if cluster.citus {
        checks.push(made(session, "distribution", placements::distribution(session, cluster, target)).await?);
    }
    if target.citus.is_some() {
        checks.extend(placements::checks(cluster, target, &relations));
    }
    let unreadable = "this role may not read the table: it needs SELECT";
    checks.push(match relations.readable {
        true => made(session, "settings", settings::check(session, cluster, target, &relations)).await?,
        false => Check::skip("settings", unreadable),
    });
    checks.push(indexes::check(target, &relations));
    for kind in [searches::Kind::Channel, searches::Kind::All] {
        let name = kind.name();
        if !kind.applies(target) {
            continue;
        }
        checks.push(match relations.readable {
            true => {
                let check = searches::check(session, cluster, server, target, &relations, kind);
                let check = tokio::time::timeout(CHECK_MAX, check).await;
                let check = check.unwrap_or_else(|_| Err(silent().into()));
                settled(session, name, check)?.unwrap_or_else(|check| check)
            }
            false => Check::skip(name, unreadable),
        });
    }
    checks.extend(books::checks(session, cluster, target, &relations, count, tell).await?);
    Ok(checks)
}

/// The table itself.
fn table(target: &Target, relations: &Relations) -> Check {
    let is_vector = |kind: &Option<TargetType>| kind.as_ref().and_then(TargetType::vector_dim).is_some();
    let vectors: Vec<String> = target
        .columns
        .iter()
        .filter(|column| is_vector(&column.target_type))
        .map(|column| format!("{} {}", column.name, column.type_name))
        .collect();
    if vectors.is_empty() {
        let mut check = Check::pass("table", format!("{} has {}", target.name, target.column_names()));
        check.fail("it has no column of type vector or halfvec", "name the right table with --table");
        return check;
    }
    let rows = match relations.rows() {
        Some(rows) => format!("about {}", counted(rows, "row", "rows")),
        None => "not analyzed yet".into(),
    };
    Check::pass("table", format!("{}: {}, {rows}", target.name, vectors.join(", ")))
}

/// Bounds what this session's statements may take, and keeps the server's notices about nodes to what it answers.
async fn bound(session: &Session, citus: bool) -> Result<()> {
    let settings =
        format!("set statement_timeout = {}; set client_min_messages = error", STATEMENT_MAX.as_millis());
    session
        .batch_execute(&settings)
        .await
        .map_err(|error| session.error("bound the time of checks", error))?;
    if citus { bound_connects(session).await } else { Ok(()) }
}

fn report(table: String, server: ServerVersions, checks: Vec<Check>) -> Report {
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    Report {
        table,
        passed: count(Outcome::Fail) == 0,
        pass: count(Outcome::Pass),
        warn: count(Outcome::Warn),
        fail: count(Outcome::Fail),
        skip: count(Outcome::Skip),
        checks,
        server,
    }
}

/// Makes a check; what goes wrong is its outcome.
async fn made(
    session: &Session,
    name: &'static str,
    check: impl Future<Output = Answer<Check>>,
) -> Result<Check> {
    Ok(within_time(session, name, check).await?.unwrap_or_else(|check| check))
}

/// Waits for an answer; what goes wrong is a check of this name.
async fn within_time<T>(
    session: &Session,
    name: &'static str,
    answer: impl Future<Output = Answer<T>>,
) -> Result<Result<T, Check>> {
    let answer = tokio::time::timeout(CHECK_MAX, answer).await.unwrap_or_else(|_| Err(silent().into()));
    settled(session, name, answer)
}

/// A server that does not even end a statement in its time.
fn silent() -> Error {
    Error::failed(format!("the server has not answered for {} s", CHECK_MAX.as_secs()))
        .hint("see what the server is doing, then run vecload verify again")
        .lost()
}

fn settled<T>(session: &Session, name: &'static str, answer: Answer<T>) -> Result<Result<T, Check>> {
    let error = match answer {
        Ok(answer) => return Ok(Ok(answer)),
        Err(Trouble::Ours(error)) if error.is_lost() => return Err(error),
        Err(Trouble::Ours(error)) => return Ok(Err(failed(name, &error))),
        Err(Trouble::Server(error)) => error,
    };
    let Some(said) = ServerError::of(&error) else {
        return Err(session.error(format!("check: {name}"), error));
    };
    let code = error.code();
    if code == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let mut check = Check::skip(name, format!("this role may not look: {}", said.message));
        check.cure = Some("run it as the table's owner, or as a superuser".into());
        return Ok(Err(check));
    }
    if code == Some(&SqlState::UNDEFINED_FUNCTION) {
        return Ok(Err(Check::skip(name, format!("the server is too old for it: {}", said.message))));
    }
    if said.code.starts_with("08") {
        return Ok(Err(Check::skip(name, format!("a node does not answer: {}", said.message))));
    }
    Ok(Err(failed(name, &pg_error("look", error))))
}

/// A check that an error has ended.
fn failed(name: &'static str, error: &Error) -> Check {
    if error.kind() == Kind::Refused {
        return Check::skip(name, error.to_string());
    }
    let mut check = Check::pass(name, "the check could not be made");
    check.fail(error.to_string(), error.advice().unwrap_or("mend what the server names, then run it again"));
    check
}

/// Servers' messages may have several lines.
fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// A count with its noun: 1 row, 20,000 rows.
fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", indicatif::HumanCount(count.unsigned_abs()), if count == 1 { one } else { many })
}

/// The first of some names, and how many more there are.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_as_bad_as_its_worst_finding_and_names_all() {
        let mut check = Check::pass("nodes", "3 nodes");
        check.fail("a is down", "start it");
        check.warn("b is slow", "wait");
        check.warn("c is slow", "wait");
        assert_eq!(check.outcome, Outcome::Fail);
        assert_eq!(check.cause.as_deref(), Some("a is down; b is slow; c is slow"));
        assert_eq!(check.cure.as_deref(), Some("start it; wait"));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["1", "2", "3", "4", "5", "6", "7"]), "1, 2, 3, 4, 5 and 2 more");
    }
}
