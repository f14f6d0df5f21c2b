//! Endpoints: where a block goes. Plain PostgreSQL is one endpoint, and so is a Citus coordinator.

use crate::postgres::catalog::Target;
use crate::postgres::quote_ident;

/// A table that blocks are copied into, over connections of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The COPY statement.
    pub copy_sql: String,
    /// Whether deferred constraints have to be checked before the ledger row is written.
    pub has_deferrable: bool,
    /// Name in messages.
    pub table: String,
    /// Whether rows go on to other nodes, whose errors lose their codes on the way.
    pub is_distributed: bool,
    /// Name without its schema, as the server's contexts have it.
    pub relation: String,
}

/// Which way blocks take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Into a plain table.
    Direct,
    /// Into a distributed table, through the node vecload is connected to.
    Coordinator,
}

impl Endpoint {
    /// The endpoint of a table by its own name, and the route that this is.
    pub fn of(target: &Target, columns: &[String]) -> (Self, Route) {
        let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
        let endpoint = Self {
            copy_sql: format!(
                "copy {} ({}) from stdin with (format binary)",
                target.name.sql(),
                columns.join(", ")
            ),
            has_deferrable: target.has_deferrable,
            table: target.name.to_string(),
            is_distributed: target.citus.is_some(),
            relation: target.name.name.clone(),
        };
        let route = if target.citus.is_some() { Route::Coordinator } else { Route::Direct };
        (endpoint, route)
    }
}
