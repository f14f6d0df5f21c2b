//! `ALTER DATABASE … SET`, and back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::{PARAMETERS, Setting};
use crate::cluster::{self, Address};
use crate::error::{Error, Kind, Result};
use crate::postgres::catalog::ServerVersions;
use crate::postgres::{Session, pg_error, quote_ident, quote_literal};

/// What tune has set and what was there before, kept with the database's own settings: it goes where these go, and
/// ends with them.
const MEMORY: &str = "vecload.tuned";

/// A parameter of the database that has another value now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The parameter.
    pub name: String,
    /// The database's value before; `None`: the server's counted.
    pub before: Option<String>,
    /// The database's value now.
    pub now: Option<String>,
    /// Whether `before` is kept for [`reset`].
    pub remembered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    before: Option<String>,
    set: String,
}

type Memory = BTreeMap<String, Remembered>;

/// The settings of this database, for all roles.
pub async fn present(client: &Client) -> Result<BTreeMap<String, String>> {
    let found = cluster::ask_here(client, PRESENT_SQL).await?;
    found.map_err(|problem| Error::failed(format!("look at the database's settings: {problem}")))
}

const PRESENT_SQL: &str = "select coalesce(json_object_agg(
        split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)), '{}')::text
    from pg_db_role_setting join pg_database d on d.oid = setdatabase, unnest(setconfig) as setting
    where d.datname = current_database() and setrole = 0";

/// Sets what differs, on all nodes.
pub async fn apply(
    session: &Session,
    versions: &ServerVersions,
    settings: &[Setting],
) -> Result<Vec<Change>> {
    let rights = Rights::of(session).await?;
    rights.check(versions)?;
    let present = present(session).await?;
    let mut memory = read_memory(&present);
    let mut changes = Vec::new();
    for setting in settings {
        let before = present.get(setting.name);
        let kept = memory.get(setting.name).filter(|kept| Some(&kept.set) == before).cloned();
        let now = match (&setting.value, &kept) {
            (Some(value), _) => Some(value.clone()),
            // What an earlier run set, and this one would leave alone.
            (None, Some(kept)) => kept.before.clone(),
            (None, None) => continue,
        };
        if now.as_ref() == before {
            continue;
        }
        let older = kept.map_or_else(|| before.cloned(), |kept| kept.before);
        memory.remove(setting.name);
        if let Some(set) = &setting.value {
            memory.insert(setting.name.into(), Remembered { before: older, set: set.clone() });
        }
        changes.push(Change {
            name: setting.name.into(),
            before: before.cloned(),
            now,
            remembered: rights.may_remember,
        });
    }
    if !changes.is_empty() {
        alter(session, versions, &changes, rights.may_remember.then_some(&memory)).await?;
    }
    Ok(changes)
}

/// Puts back what was there before [`apply`]; what somebody has set since then stays.
pub async fn reset(session: &Session, versions: &ServerVersions) -> Result<Vec<Change>> {
    Rights::of(session).await?.check(versions)?;
    let present = present(session).await?;
    if !present.contains_key(MEMORY) {
        let set: Vec<&str> = PARAMETERS.into_iter().filter(|name| present.contains_key(*name)).collect();
        if set.is_empty() {
            return Ok(Vec::new());
        }
        let database = quote_ident(&current_database(session).await?);
        let resets: Vec<String> =
            set.iter().map(|name| format!("ALTER DATABASE {database} RESET {name};")).collect();
        return Err(Error::refused(format!(
            "the database has {}, and nothing tells whether vecload tune has set it or what was there before",
            set.join(", ")
        ))
        .hint(format!("only for superusers it is remembered; take it away with: {}", resets.join(" "))));
    }
    let mut changes = Vec::new();
    for (name, kept) in read_memory(&present) {
        if present.get(&name) == Some(&kept.set) {
            changes.push(Change { name, before: Some(kept.set), now: kept.before, remembered: true });
        }
    }
    alter(session, versions, &changes, Some(&Memory::new())).await?;
    Ok(changes)
}

fn read_memory(present: &BTreeMap<String, String>) -> Memory {
    let text = present.get(MEMORY).map_or("{}", String::as_str);
    // What cannot be read was not written by us.
    serde_json::from_str(text).unwrap_or_default()
}

/// What this role may do.
struct Rights {
    role: String,
    database: String,
    owner: String,
    is_owner: bool,
    may_set_hnsw: bool,
    may_remember: bool,
}

impl Rights {
    async fn of(session: &Session) -> Result<Self> {
        // Before PostgreSQL 15 anybody may set parameters that no library has claimed.
        let privileges = match session.server_version_num() >= 150_000 {
            true => {
                "has_parameter_privilege('hnsw.ef_search', 'set') and \
                 has_parameter_privilege('hnsw.iterative_scan', 'set'), has_parameter_privilege($1, 'set')"
            }
            false => "true, $1 <> ''",
        };
        let sql = format!(
            "select current_user::text, datname::text, pg_get_userbyid(datdba)::text, pg_has_role(datdba, 'usage'),
                {privileges} from pg_database where datname = current_database()"
        );
        let row = session.query_one(&sql, &[&MEMORY]).await;
        let row = row.map_err(|error| pg_error("look at the role's rights", error))?;
        Ok(Self {
            role: row.get(0),
            database: row.get(1),
            owner: row.get(2),
            is_owner: row.get(3),
            may_set_hnsw: row.get(4),
            may_remember: row.get(5),
        })
    }

    fn check(&self, versions: &ServerVersions) -> Result<()> {
        let Self { role, database, owner, .. } = self;
        if !self.is_owner {
            return Err(Error::refused(format!("role {role} does not own the database {database}")).hint(
                format!("only its owner, {owner}, or a superuser may change its settings: connect as one"),
            ));
        }
        // On the coordinator pgvector is loaded first and the owner may; sessions of Citus on workers do not load it.
        if versions.citus.is_some() && !self.may_set_hnsw {
            return Err(Error::refused(format!("role {role} may not set hnsw.ef_search on workers")).hint(format!(
                "connect as a superuser, or let one run on each node: GRANT SET ON PARAMETER hnsw.ef_search, \
                 hnsw.iterative_scan TO {}",
                quote_ident(role)
            )));
        }
        Ok(())
    }
}

/// All changes or none, on the coordinator and the workers.
async fn alter(
    session: &Session,
    versions: &ServerVersions,
    changes: &[Change],
    memory: Option<&Memory>,
) -> Result<()> {
    let mut wanted: Vec<(&str, Option<String>)> =
        changes.iter().map(|change| (change.name.as_str(), change.now.clone())).collect();
    if let Some(memory) = memory {
        let text = serde_json::to_string(memory).map_err(|error| Error::bug("write JSON").because(error))?;
        wanted.push((MEMORY, (!memory.is_empty()).then_some(text)));
    }
    let database = quote_ident(&current_database(session).await?);
    let statements = statements(&database, &wanted);
    let load = load_pgvector_sql(session).await?;
    let doing = format!("change settings of the database {database}");
    for statement in ["begin"]
        .into_iter()
        .chain(load.as_deref())
        .chain(statements.iter().map(String::as_str))
        .chain(["commit"])
    {
        if let Err(error) = session.batch_execute(statement).await {
            if let Err(rollback) = session.batch_execute("rollback").await {
                tracing::debug!("rollback: {rollback}");
            }
            return Err(session.error(doing, error).with_kind(Kind::Refused));
        }
    }
    if versions.citus.is_some() {
        repeat_on_workers(session, &database, &wanted).await?;
    }
    Ok(())
}

fn statements(database: &str, wanted: &[(&str, Option<String>)]) -> Vec<String> {
    let statement = |(name, value): &(&str, Option<String>)| match value {
        Some(value) => format!("alter database {database} set {name} = {}", quote_literal(value)),
        None => format!("alter database {database} reset {name}"),
    };
    wanted.iter().map(statement).collect()
}

/// Citus before 13.1 leaves `ALTER DATABASE … SET` on the coordinator: what has not arrived on a worker is run there.
async fn repeat_on_workers(
    session: &Session,
    database: &str,
    wanted: &[(&str, Option<String>)],
) -> Result<()> {
    let nodes = cluster::nodes(session).await?;
    let workers =
        nodes.into_iter().filter(|node| node.is_primary && node.is_active && !node.is_coordinator());
    let workers: Vec<Address> = workers.map(|node| node.address).collect();
    let failed = |worker: &Address, problem: &str| {
        Error::failed(format!("change settings of the database {database} on {worker}: {problem}"))
            .hint("the coordinator has them; remove the cause, then run the same command again")
    };
    let found = cluster::ask_json::<BTreeMap<String, String>>(session, &workers, PRESENT_SQL).await?;
    for (worker, present) in workers.iter().zip(found) {
        let present = present.map_err(|problem| failed(worker, &problem))?;
        let missing: Vec<_> =
            wanted.iter().filter(|(name, value)| present.get(*name) != value.as_ref()).cloned().collect();
        if missing.is_empty() {
            continue;
        }
        tracing::info!("{worker} has not taken the settings over by itself");
        // Citus lets workers change the database only by themselves and for themselves.
        let sql =
            format!("set citus.enable_ddl_propagation to off; {}", statements(database, &missing).join("; "));
        cluster::ask(session, std::slice::from_ref(worker), &sql)
            .await?
            .remove(0)
            .map_err(|problem| failed(worker, &problem))?;
    }
    Ok(())
}

/// A statement that makes the server load pgvector, after which its owner may set its parameters for a database.
async fn load_pgvector_sql(session: &Session) -> Result<Option<String>> {
    let sql = "select quote_ident(nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where extname = 'vector'";
    let row = session.query_opt(sql, &[]).await.map_err(|error| pg_error("look for pgvector", error))?;
    Ok(row.map(|row| format!("select '[1]'::{}.vector", row.get::<_, String>(0))))
}

async fn current_database(session: &Session) -> Result<String> {
    let row = session.query_one("select current_database()::text", &[]).await;
    Ok(row.map_err(|error| pg_error("ask for the database's name", error))?.get(0))
}
