//! `vecload db`

use super::args::{DbArguments, DbCommand};
use super::printer::shown_seconds;
use super::server::Context;
use crate::config::sizes::show_size;
use crate::embedded::EmbeddedServer;
use crate::error::{Context as _, Error, Result};

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: DbArguments) -> Result<u8> {
    let printer = context.printer;
    match arguments.command {
        DbCommand::Start { port } => {
            let server = context.start_embedded(port).await?;
            print_status(context, &server).await?;
        }
        DbCommand::Stop => {
            let options = context.embedded_options(None);
            let stopped = blocking(move || EmbeddedServer::stop(&options)).await?;
            match printer.is_json() {
                true => printer.json(&serde_json::json!({ "state": "stopped" }))?,
                false => printer.say(if stopped { "stopped" } else { "it was not running" }),
            }
        }
        DbCommand::Status => match running(context).await? {
            Some(server) => print_status(context, &server).await?,
            None if printer.is_json() => printer.json(&serde_json::json!({ "state": "stopped" }))?,
            None => printer.answer("not running")?,
        },
        DbCommand::Url => {
            let url = started(context).await?.url();
            match printer.is_json() {
                true => printer.json(&serde_json::json!({ "url": url }))?,
                false => printer.answer(&url)?,
            }
        }
        DbCommand::Psql { arguments } => {
            let server = started(context).await?;
            let mut psql = server.psql_command()?;
            psql.args(arguments);
            let status = blocking(move || psql.status().or_failed(|| "start psql".into())).await?;
            return Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
        }
    }
    Ok(0)
}

/// The running server; `url` and `psql` start it, as `load` does.
async fn started(context: &Context<'_>) -> Result<EmbeddedServer> {
    context.start_embedded(None).await
}

async fn running(context: &Context<'_>) -> Result<Option<EmbeddedServer>> {
    let options = context.embedded_options(None);
    blocking(move || EmbeddedServer::running(&options)).await
}

async fn print_status(context: &Context<'_>, server: &EmbeddedServer) -> Result<()> {
    let server = server.clone();
    let status = blocking(move || server.status()).await?;
    let printer = context.printer;
    if printer.is_json() {
        return printer.json(&status);
    }
    let row = |name: &str, value: String| printer.answer(&format!("{name:<12}{value}"));
    row("state", status.state)?;
    row("version", format!("PostgreSQL {}", status.version))?;
    row("pid", format!("{} (as {})", status.pid, status.user))?;
    row("uptime", shown_seconds(status.uptime_seconds as f64))?;
    row("port", format!("{} on 127.0.0.1", status.port))?;
    row("url", status.url)?;
    row("data", format!("{} ({})", status.data_dir.display(), show_size(status.size_bytes)))?;
    row("programs", status.bindir.display().to_string())?;
    row("log", status.log.display().to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| Error::bug("the embedded server's task panicked").because(panic))?
}
