//! Distribution of the target by Citus: what is asked for, what stands against it, and the deed.

use tokio_postgres::Client;

use super::catalog::Target;
use super::citus::{Cluster, Kind, check_shape};
use super::{QualifiedName, pg_error, quote_literal};
use crate::error::{Error, Result};

const DISTRIBUTE: &str = include_str!("../../migrations/target/04_distribute.sql");

/// The column that tables are distributed by.
const COLUMN: &str = "channel_id";

/// Citus's own limit.
const SHARDS_MAX: u32 = 64_000;

/// How the table should be distributed, where Citus is.
#[derive(Debug, Clone)]
pub struct DistributionSpec {
    /// Number of shards.
    pub shards: u32,
    /// Whether a table that has another number is refused.
    pub is_exact: bool,
    /// Whether a local table that has rows is distributed.
    pub with_rows: bool,
}

impl Default for DistributionSpec {
    fn default() -> Self {
        Self { shards: 32, is_exact: false, with_rows: false }
    }
}

/// What is to be done, found right.
pub(super) struct Plan {
    shards: Option<u32>,
    is_new: bool,
    has_rows: bool,
    notes: Vec<String>,
}

impl Plan {
    /// Looks at cluster and table, and refuses what would fail or mislead. Changes nothing.
    pub(super) async fn make(
        client: &Client,
        name: &QualifiedName,
        existing: Option<&Target>,
        spec: &DistributionSpec,
    ) -> Result<Self> {
        if spec.shards == 0 || spec.shards > SHARDS_MAX {
            return Err(
                Error::refused(format!("--shards {}", spec.shards)).hint(format!("give 1 to {SHARDS_MAX}"))
            );
        }
        let nothing = |notes| Self { shards: None, is_new: false, has_rows: false, notes };
        let Some(cluster) = Cluster::of(client, name).await? else {
            return match spec.with_rows {
                true => {
                    Err(Error::refused("--distribute: the extension citus is not installed in this database")
                        .hint("leave it out; or install Citus, and run: create extension citus;"))
                }
                false => Ok(nothing(Vec::new())),
            };
        };
        cluster.check_is_coordinator()?;
        let has_rows = match existing {
            Some(existing) => !existing.is_empty(client).await?,
            None => false,
        };
        if let Some(existing) = existing {
            match cluster.table.unwrap_or(Kind::Local) {
                Kind::Local if has_rows && !spec.with_rows => {
                    return Ok(nothing(vec![format!(
                        "table {} has rows and stays local: --distribute spreads them over the cluster's nodes",
                        existing.name
                    )]));
                }
                Kind::Local => check_shape(client, existing, COLUMN).await?,
                Kind::Distributed => return check_distribution(existing, spec).map(nothing),
                kind => {
                    return Err(Error::refused(format!("table {} is {}", existing.name, kind.name())).hint(format!(
                        "name another table with --table, or make it local, then run this again with --distribute: \
                         select undistribute_table({});",
                        quote_literal(&existing.name.sql())
                    )));
                }
            }
        }
        let notes = cluster.check_nodes(client).await?;
        Ok(Self { shards: Some(spec.shards), is_new: existing.is_none(), has_rows, notes })
    }

    /// Distributes the table, if that is to be done; gives what there is to say.
    pub(super) async fn carry_out(mut self, client: &Client, name: &QualifiedName) -> Result<Vec<String>> {
        let Some(shards) = self.shards else { return Ok(self.notes) };
        let failed = |error| pg_error(format!("distribute table {name}"), error);
        let options = lost_options(client, name).await?;
        let settings = [
            ("vecload.schema", name.schema.clone().unwrap_or_default()),
            ("vecload.table", name.name.clone()),
            ("vecload.shards", shards.to_string()),
        ];
        for (setting, value) in settings {
            let set = client.execute("select set_config($1, $2, false)", &[&setting, &value]).await;
            set.map_err(failed)?;
        }
        // The rows are copied; those that they were copied from are hidden, and only take room.
        let truncate =
            format!("select truncate_local_data_after_distributing_table({})", quote_literal(&name.sql()));
        let mut statements = vec!["begin", DISTRIBUTE];
        if self.has_rows {
            statements.push(&truncate);
        }
        statements.extend(options.again.iter().map(String::as_str));
        statements.push("commit");
        for statement in statements {
            if let Err(error) = client.batch_execute(statement).await {
                if let Err(rollback) = client.batch_execute("rollback").await {
                    tracing::debug!("rollback: {rollback}");
                }
                let error = failed(error);
                let advice = error.advice().map_or(String::new(), |advice| format!("{advice}; "));
                return Err(error.hint(match self.is_new {
                    true => format!("{advice}the table was made and is empty; once mended, run this again"),
                    false => format!("{advice}nothing was changed"),
                }));
            }
        }
        if self.has_rows {
            self.notes.push(format!("distributed the rows of {name} over {shards} shards"));
        }
        self.notes.extend(options.gone);
        Ok(self.notes)
    }
}

/// Whether a distributed table is as asked for; gives what there is to say.
fn check_distribution(existing: &Target, spec: &DistributionSpec) -> Result<Vec<String>> {
    let Some(found) = &existing.citus else { return Ok(Vec::new()) };
    let (name, regclass) = (&existing.name, quote_literal(&existing.name.sql()));
    if found.column != COLUMN && existing.column(COLUMN).is_some() {
        return Err(Error::refused(format!(
            "table {name} is distributed by {}, not by {COLUMN}",
            found.column
        ))
        .hint(format!(
            "move its rows: select alter_distributed_table({regclass}, distribution_column => '{COLUMN}'); \
                 or load into it as it is, which needs no migrate"
        )));
    }
    let (shards, asked) = (found.shards, spec.shards);
    if shards != i64::from(asked) && spec.is_exact {
        return Err(Error::refused(format!(
            "table {name} has {shards} shards, and --shards {asked} is asked for"
        ))
        .hint(format!(
            "leave --shards out, or move its rows: \
                 select alter_distributed_table({regclass}, shard_count => {asked});"
        )));
    }
    match spec.with_rows {
        true => {
            Ok(vec![format!("table {name} is distributed already, by {} in {shards} shards", found.column)])
        }
        false => Ok(Vec::new()),
    }
}

/// What distribution takes from a table's options.
struct LostOptions {
    /// Statements that bring it back.
    again: Vec<String>,
    /// What can't be brought back.
    gone: Vec<String>,
}

async fn lost_options(client: &Client, name: &QualifiedName) -> Result<LostOptions> {
    let failed = |error| pg_error(format!("look up the options of {name}"), error);
    let row = client
        .query_one(
            "select coalesce(t.reloptions, '{}'),
                    array(select attname::text from pg_attribute
                          where attrelid = c.oid and attoptions is not null order by attnum)
             from pg_class c left join pg_class t on t.oid = c.reltoastrelid where c.oid = to_regclass($1)",
            &[&name.sql()],
        )
        .await
        .map_err(failed)?;
    let (toast, columns): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
    let set = |option: &String| {
        let (option, value) = option.split_once('=')?;
        Some(format!("alter table {} set (toast.{option} = {})", name.sql(), quote_literal(value)))
    };
    let gone = |column: &String| {
        format!("{name}.{column} has lost its n_distinct: Citus does not pass it to shards")
    };
    Ok(LostOptions {
        again: toast.iter().filter_map(set).collect(),
        gone: columns.iter().map(gone).collect(),
    })
}
