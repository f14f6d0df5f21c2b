//! One more node: everything that could go wrong is looked at before anything is changed.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Address;
use super::needs;
use super::nodes::{Answer, Node, OWN_GROUP_SQL, another_server, ask, ask_here, ask_json, nodes};
use crate::error::{Error, Result};
use crate::postgres::{pg_error, quote_ident, quote_literal};

/// A node to add.
#[derive(Debug)]
pub struct AddRequest {
    /// The new node.
    pub node: Address,
    /// The coordinator's own address, if the user gives it.
    pub coordinator: Option<Address>,
    /// Where this session has found the coordinator; `None` is a socket.
    pub connected_to: Option<Address>,
}

/// What was done for a node.
#[derive(Debug, Serialize)]
pub struct Added {
    /// The node.
    pub node: Address,
    /// `added`, `activated`, `takes_shards` (it had been drained) or `present`.
    pub state: &'static str,
    /// Where the nodes reach the coordinator.
    pub coordinator: Option<Address>,
    /// Whether that address was registered now.
    pub registered_coordinator: bool,
    /// Extensions that were created on the new node.
    pub created_extensions: Vec<&'static str>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// What decides whether a server can be a node.
#[derive(Debug, Deserialize)]
struct Server {
    system: String,
    version_num: i32,
    version: String,
    in_recovery: bool,
    superuser: bool,
    preloads_citus: bool,
    citus: Option<String>,
    citus_available: Option<String>,
    vector: Option<String>,
    vector_schema: Option<String>,
    vector_available: Vec<String>,
}

const SERVER_SQL: &str = "select json_build_object(
    'system', (select system_identifier::text from pg_control_system()),
    'version_num', current_setting('server_version_num')::int,
    'version', split_part(current_setting('server_version'), ' ', 1),
    'in_recovery', pg_is_in_recovery(),
    'superuser', current_setting('is_superuser') = 'on',
    'preloads_citus', current_setting('shared_preload_libraries') ~ '\\mcitus\\M',
    'citus', (select extversion from pg_extension where extname = 'citus'),
    'citus_available', (select default_version from pg_available_extensions where name = 'citus'),
    'vector', (select extversion from pg_extension where extname = 'vector'),
    'vector_schema', (select nspname from pg_extension join pg_namespace n on n.oid = extnamespace
        where extname = 'vector'),
    'vector_available', (select coalesce(json_agg(version), '[]') from pg_available_extension_versions
        where name = 'vector'))::text";

/// To which cluster a server belongs, where it has Citus.
#[derive(Debug, Deserialize)]
struct Membership {
    coordinator: Option<String>,
    nodes: u64,
}

const MEMBERSHIP_SQL: &str = "select json_build_object(
    'coordinator', (select nodename || ':' || nodeport from pg_dist_node where groupid = 0 and noderole = 'primary'),
    'nodes', (select count(*) from pg_dist_node))::text";

/// Adds a node, or finds it there.
pub async fn add(client: &Client, request: &AddRequest) -> Result<Added> {
    needs::nodes_may_change(client).await?;
    let known = nodes(client).await?;
    let registered = known.iter().find(|node| node.is_coordinator()).map(|node| node.address.clone());
    let mut added = Added {
        node: request.node.clone(),
        state: "present",
        coordinator: registered.clone(),
        registered_coordinator: false,
        created_extensions: Vec::new(),
        notes: Vec::new(),
    };
    if let Some(node) = known.iter().find(|node| node.address == request.node) {
        added.state = revive(client, node).await?;
        return Ok(added);
    }
    let coordinator = coordinator_address(request, registered.as_ref())?;
    let here = ask_here::<Server>(client, SERVER_SQL).await?;
    let here = here.map_err(|problem| Error::failed(format!("ask the coordinator: {problem}")))?;
    let new = newcomer(client, &request.node, &here).await?;
    let workers = workers(client, &known, &request.node, &new.system).await?;
    has_no_old_shards(client, &request.node).await?;
    leads_to_itself(client, &coordinator, &here.system).await?;
    for (worker, _) in &workers {
        reaches(client, worker, &request.node, &new.system).await?;
    }
    added.created_extensions = create_extensions(client, &request.node, &here, &new).await?;
    if new.vector.is_some() && new.vector != here.vector {
        let of = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".into());
        added.notes.push(format!(
            "pgvector is {} on {}, and {} on the coordinator: keep them the same",
            of(&new.vector),
            request.node,
            of(&here.vector)
        ));
    }
    for (worker, system) in &workers {
        reaches(client, &request.node, worker, system).await?;
    }
    reaches(client, &request.node, &coordinator, &here.system).await?;
    if registered.as_ref() != Some(&coordinator) {
        let sql = "select citus_set_coordinator_host($1, $2)";
        let done = client.query(sql, &[&coordinator.host, &i32::from(coordinator.port)]).await;
        done.map_err(|error| pg_error(format!("register the coordinator as {coordinator}"), error))?;
        added.registered_coordinator = true;
    }
    let port = i32::from(request.node.port);
    let done = client.query("select citus_add_node($1, $2)", &[&request.node.host, &port]).await;
    done.map_err(|error| pg_error(format!("add node {}", request.node), error))?;
    added.state = "added";
    added.coordinator = Some(coordinator);
    Ok(added)
}

/// A node that is in the list already is brought to use.
async fn revive(client: &Client, node: &Node) -> Result<&'static str> {
    let failed = |error| pg_error(format!("bring node {} to use", node.address), error);
    let port = i32::from(node.address.port);
    if let Some(cloned) = &node.clone_of {
        let Address { host, .. } = &node.address;
        return Err(Error::refused(format!(
            "{} is a clone of {cloned}, which takes no writes",
            node.address
        ))
        .hint(format!(
            "to let it take half of that node's shards: select citus_promote_clone_and_rebalance(nodeid) \
                 from pg_dist_node where nodename = {} and nodeport = {port}",
            quote_literal(host)
        )));
    }
    if !node.is_active {
        let activated =
            client.query("select citus_activate_node($1, $2)", &[&node.address.host, &port]).await;
        return activated.map(|_| "activated").map_err(failed);
    }
    let own = ask(client, std::slice::from_ref(&node.address), OWN_GROUP_SQL).await?.remove(0);
    let why = match own {
        Ok(own) => another_server(node.group, &own),
        Err(problem) => Some(problem),
    };
    if let Some(why) = why {
        return Err(Error::refused(format!("{} is a node, and can't be used: {why}", node.address))
            .hint("vecload verify tells what to do"));
    }
    if node.is_primary && !node.is_coordinator() && !node.takes_shards {
        let sql = "select citus_set_node_property($1, $2, 'shouldhaveshards', true)";
        return client.query(sql, &[&node.address.host, &port]).await.map(|_| "takes_shards").map_err(failed);
    }
    Ok("present")
}

/// Where the nodes are to reach the coordinator: as the user says, as it is registered, or as we have reached it.
fn coordinator_address(request: &AddRequest, registered: Option<&Address>) -> Result<Address> {
    // Citus registers localhost by itself on a coordinator without workers.
    let registered = registered.filter(|address| !address.is_loopback() || request.node.is_loopback());
    if let Some(address) = request.coordinator.as_ref().or(registered) {
        return Ok(address.clone());
    }
    match &request.connected_to {
        Some(address) if !address.is_loopback() || request.node.is_loopback() => Ok(address.clone()),
        address => {
            let how = address.as_ref().map_or("a socket".into(), Address::to_string);
            Err(Error::refused(format!(
                "workers connect to the coordinator, which is not registered by an address for them, and {how} means \
                 nothing to {}",
                request.node
            ))
            .hint("give it as the workers reach it: --coordinator HOST:PORT"))
        }
    }
}

/// Looks at the new server; refuses one that does not fit.
async fn newcomer(client: &Client, node: &Address, here: &Server) -> Result<Server> {
    let answer = ask_json::<Server>(client, std::slice::from_ref(node), SERVER_SQL).await?.remove(0);
    let new = answer.map_err(|problem| {
        Error::refused(format!("the coordinator can't use {node} as a node: {problem}")).hint(format!(
            "check that a server runs there and listens on that address, that it has this database and role, and that \
             its pg_hba.conf lets the coordinator in; a password stands in the coordinator's ~/.pgpass or in \
             pg_dist_authinfo. On the coordinator, select citus_check_connection_to_node({}, {}) says more",
            quote_literal(&node.host),
            node.port
        ))
    })?;
    let refuse =
        |why: String, cure: &str| Err(Error::refused(format!("{node} can't be a node: {why}")).hint(cure));
    if new.system == here.system {
        return refuse(
            "it is the coordinator itself, or a copy of it".into(),
            "name another server; one that is made for it starts with initdb",
        );
    }
    if new.in_recovery {
        return refuse("it is a standby".into(), "name its primary");
    }
    if new.version_num / 10_000 != here.version_num / 10_000 {
        return refuse(
            format!("it runs PostgreSQL {}, the coordinator {}", new.version, here.version),
            "install the coordinator's major version on it",
        );
    }
    let wanted = here.citus.as_deref().unwrap_or_default();
    match new.citus.as_deref().or(new.citus_available.as_deref()) {
        None => return refuse("it has no Citus".into(), "install the coordinator's version of Citus on it"),
        Some(version) if version != wanted => {
            return refuse(
                format!("its Citus is {version}, the coordinator's {wanted}"),
                "install the same version on both, then `alter extension citus update` where it is older",
            );
        }
        Some(_) => {}
    }
    if !new.preloads_citus {
        return refuse(
            "Citus is not in its shared_preload_libraries".into(),
            "put citus first in shared_preload_libraries, and restart it",
        );
    }
    if here.vector.is_some() && new.vector.is_none() && new.vector_available.is_empty() {
        return refuse(
            "pgvector is not installed on it".into(),
            "install pgvector on it (packages are named like postgresql-17-pgvector), in the coordinator's version",
        );
    }
    if new.citus.is_none() && !new.superuser {
        return refuse(
            "it has no extension citus in this database, and this role may not create it".into(),
            "run `create extension citus` on it as a superuser",
        );
    }
    if new.citus.is_some() {
        let membership =
            ask_json::<Membership>(client, std::slice::from_ref(node), MEMBERSHIP_SQL).await?.remove(0);
        let membership = membership.map_err(|problem| silent_newcomer(node, &problem))?;
        belongs_to_nobody_else(client, node, &membership, here).await?;
    }
    Ok(new)
}

/// A server that was removed from this cluster keeps its old list of nodes; one of another cluster is refused.
async fn belongs_to_nobody_else(
    client: &Client,
    node: &Address,
    found: &Membership,
    here: &Server,
) -> Result<()> {
    let whose = match &found.coordinator {
        None if found.nodes == 0 => return Ok(()),
        None => format!("it is the coordinator of a cluster of {} nodes", found.nodes),
        Some(text) => {
            // Written by Citus, without brackets.
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            let coordinator = Address { host: host.into(), port: port.parse().unwrap_or_default() };
            match &ask(client, std::slice::from_ref(&coordinator), SYSTEM_SQL).await?[..] {
                [Ok(system)] if *system == here.system => return Ok(()),
                _ => format!("it belongs to the cluster of {coordinator}"),
            }
        }
    };
    Err(Error::refused(format!("{node} can't be a node: {whose}")).hint(
        "remove it there first, then on it: drop extension citus cascade (which drops distributed tables); or name \
         another server",
    ))
}

/// A server that was a node may still have shards of that time; Citus could never move these to it again.
async fn has_no_old_shards(client: &Client, node: &Address) -> Result<()> {
    let sql = "select coalesce(array_agg(shard_name(logicalrelid, shardid)), '{}') from pg_dist_shard";
    let shards = client.query_one(sql, &[]).await.map_err(|error| pg_error("list the shards", error))?;
    let shards: Vec<String> = shards.get(0);
    let names: Vec<String> = shards.iter().map(|name| quote_literal(name)).collect();
    let sql = format!(
        "select coalesce(string_agg(name, ', '), '') from unnest(array[{}]::text[]) as name
        where to_regclass(name) is not null",
        names.join(", ")
    );
    let found = ask(client, std::slice::from_ref(node), &sql).await?.remove(0);
    match found.map_err(|problem| silent_newcomer(node, &problem))? {
        none if none.is_empty() => Ok(()),
        found => Err(Error::refused(format!(
            "{node} can't be a node: it has tables with the names of shards, {found}"
        ))
        .hint(format!(
            "they are left from an earlier time as a node; if nothing in them is needed, on {node}: set \
                 citus.enable_manual_changes_to_shards = on; drop table {found};"
        ))),
    }
}

const SYSTEM_SQL: &str = "select system_identifier::text from pg_control_system()";

fn silent_newcomer(node: &Address, problem: &str) -> Error {
    Error::refused(format!("{node} can't be asked: {problem}"))
        .hint("it answered a moment ago: see its log, and that this role may read pg_dist_node there, then try again")
}

/// The workers at hand, with the identifier of each; one of them may be the new server under another name.
async fn workers(
    client: &Client,
    known: &[Node],
    new: &Address,
    new_system: &str,
) -> Result<Vec<(Address, String)>> {
    let of = |node: &&Node| node.is_primary && node.is_active && !node.is_coordinator();
    let addresses: Vec<Address> = known.iter().filter(of).map(|node| node.address.clone()).collect();
    let mut workers = Vec::new();
    for (address, system) in addresses.iter().zip(ask(client, &addresses, SYSTEM_SQL).await?) {
        let system = system.map_err(|problem| silent_node(address, &problem))?;
        if system == new_system {
            return Err(Error::refused(format!(
                "{new} is {address}, which is a node already, or a copy of it"
            ))
            .hint("name another server"));
        }
        workers.push((address.clone(), system));
    }
    Ok(workers)
}

fn silent_node(node: &Address, problem: &str) -> Error {
    Error::refused(format!("node {node} can't be asked: {problem}"))
        .hint("a node is added while all others answer: bring it back, or remove it first")
}

/// The coordinator's address must lead to the coordinator, here as everywhere.
async fn leads_to_itself(client: &Client, coordinator: &Address, system: &str) -> Result<()> {
    let why = match &ask(client, std::slice::from_ref(coordinator), SYSTEM_SQL).await?[..] {
        [Ok(found)] if found == system => return Ok(()),
        [Err(problem)] => format!("the coordinator does not reach itself: {problem}"),
        _ => "another server answers".into(),
    };
    Err(Error::refused(format!("{coordinator} is not the coordinator's address: {why}"))
        .hint("give the address at which workers reach the coordinator: --coordinator HOST:PORT"))
}

#[derive(Deserialize)]
struct Reached {
    success: bool,
    result: Option<String>,
}

/// Whether `from` reaches `to`, and not some other server under its name.
async fn reaches(client: &Client, from: &Address, to: &Address, system: &str) -> Result<()> {
    let sql = format!(
        "select json_build_object('success', success, 'result', result)::text from master_run_on_worker(
            array[{}], array[{}], array[{}], true)",
        quote_literal(&to.host),
        to.port,
        quote_literal(SYSTEM_SQL)
    );
    let answer: Answer<Reached> = ask_json(client, std::slice::from_ref(from), &sql).await?.remove(0);
    let why = match answer {
        Ok(Reached { success: true, result: Some(found) }) if found == system => return Ok(()),
        Ok(Reached { success: true, .. }) => "another server answers there".to_owned(),
        Ok(Reached { result, .. }) => result.unwrap_or_default(),
        Err(problem) => problem,
    };
    Err(Error::refused(format!("{from} does not reach {to}: {why}")).hint(format!(
        "nodes connect to each other: check listen_addresses and pg_hba.conf of {to}, firewalls between them, and the \
         password in ~/.pgpass of {from}'s system user; a name or address must mean the same server on all nodes"
    )))
}

/// Citus first: what comes after it is created on all nodes.
async fn create_extensions(
    client: &Client,
    node: &Address,
    here: &Server,
    new: &Server,
) -> Result<Vec<&'static str>> {
    let mut statements = Vec::new();
    if new.citus.is_none() {
        statements.push(("citus", "create extension citus".to_owned()));
    }
    if let (Some(version), None) = (&here.vector, &new.vector) {
        let schema = quote_ident(here.vector_schema.as_deref().unwrap_or("public"));
        let version = match new.vector_available.contains(version) {
            true => format!(" version {}", quote_literal(version)),
            false => String::new(),
        };
        let sql =
            format!("create schema if not exists {schema}; create extension vector schema {schema}{version}");
        statements.push(("vector", sql));
    }
    let mut created = Vec::new();
    for (name, sql) in statements {
        if let Err(problem) = ask(client, std::slice::from_ref(node), &sql).await?.remove(0) {
            return Err(Error::refused(format!("create the extension {name} on {node}: {problem}"))
                .hint(format!("run `create extension {name}` on it as a superuser, then try again")));
        }
        created.push(name);
    }
    Ok(created)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_means_another_server_elsewhere_is_not_guessed() {
        let derived = |given: Option<&str>, registered: Option<&str>, connected: Option<&str>, node: &str| {
            let request = AddRequest {
                node: address(node),
                coordinator: given.map(address),
                connected_to: connected.map(address),
            };
            coordinator_address(&request, registered.map(address).as_ref()).map(|found| found.to_string())
        };
        assert_eq!(derived(None, None, Some("db:5432"), "w:5432").unwrap(), "db:5432");
        assert_eq!(derived(None, Some("c:1"), Some("db:5432"), "w:5432").unwrap(), "c:1");
        assert_eq!(derived(Some("x:2"), Some("c:1"), Some("db:5432"), "w:5432").unwrap(), "x:2");
        assert_eq!(derived(None, None, Some("127.0.0.1:1"), "localhost:2").unwrap(), "127.0.0.1:1");
        for connected in [Some("localhost:5432"), Some("127.0.0.1:5432"), None] {
            for registered in [None, Some("localhost:5432")] {
                let error = derived(None, registered, connected, "w:5432").unwrap_err();
                assert!(error.advice().unwrap().contains("--coordinator"), "{error}");
            }
        }
        assert_eq!(derived(None, Some("localhost:1"), Some("db:5432"), "w:5432").unwrap(), "db:5432");
    }
}
