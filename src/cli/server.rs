//! Which server a command talks to, and the table it means.

use std::sync::Arc;

use crate::cli::args::Global;
use crate::cli::printer::Printer;
use crate::config::file::PipelineFile;
use crate::embedded::{EmbeddedOptions, EmbeddedServer};
use crate::error::{Error, Result};
use crate::pipeline::load::Way;
use crate::pipeline::retry::Revive;
use crate::postgres::{ConnectSettings, QualifiedName, Session, SessionOptions};

/// What every command has at hand.
pub(super) struct Context<'a> {
    /// Options of all commands.
    pub global: Global,
    /// `pipeline.toml`.
    pub file: PipelineFile,
    /// The way out.
    pub printer: &'a Printer,
}

/// A server, and whether it is vecload's own.
pub(super) struct Server {
    /// How to connect.
    pub settings: ConnectSettings,
    /// The embedded one, where tables are created without asking.
    pub embedded: Option<EmbeddedOptions>,
}

impl Context<'_> {
    /// The table that is meant.
    pub(super) fn table(&self) -> Result<QualifiedName> {
        self.global.table.as_ref().unwrap_or(&self.file.database.table).parse()
    }

    /// The server that is meant: a flag beats the environment, which beats the file; else the embedded one
    /// is started.
    pub(super) async fn server(&self) -> Result<Server> {
        let env = |name: &str| std::env::var(name).ok();
        let given = match (&self.global.db, env("DATABASE_URL").filter(|url| !url.is_empty())) {
            (Some(url), _) => ConnectSettings::resolve(Some(url), &env)?,
            (None, Some(url)) => ConnectSettings::resolve(Some(&url), &env)?,
            (None, None) => match ConnectSettings::resolve(None, &env)? {
                Some(settings) => Some(settings),
                None if self.file.database.url.is_empty() => None,
                None => ConnectSettings::resolve(Some(&self.file.database.url), &env)?,
            },
        };
        if let Some(settings) = given {
            return Ok(Server { settings, embedded: None });
        }
        let server = self.start_embedded(None).await?;
        // The environment speaks of other servers.
        let settings = ConnectSettings::resolve(Some(&server.url()), &|_| None)?;
        let settings = settings.ok_or_else(|| Error::bug("the embedded server has no URL"))?;
        let embedded = Some(self.embedded_options(Some(server.port())));
        Ok(Server { settings, embedded })
    }

    /// Starts the embedded server.
    pub(super) async fn start_embedded(&self, port: Option<u16>) -> Result<EmbeddedServer> {
        let options = self.embedded_options(port);
        let (lines, mut said) = tokio::sync::mpsc::channel::<String>(16);
        let starting = tokio::task::spawn_blocking(move || {
            EmbeddedServer::start(&options, &|line| drop(lines.blocking_send(line.to_string())))
        });
        while let Some(line) = said.recv().await {
            self.printer.say(&line);
        }
        starting.await.map_err(|panic| Error::bug("start the embedded server").because(panic))?
    }

    /// Options of the embedded server.
    pub(super) fn embedded_options(&self, port: Option<u16>) -> EmbeddedOptions {
        let file = &self.file.embedded;
        let named = |path: &std::path::PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        EmbeddedOptions {
            dir: file.dir.clone(),
            pg_bindir: self.global.pg_bindir.clone().or(named(&file.pg_bindir)),
            port: port.or((file.port != 0).then_some(file.port)),
            ..EmbeddedOptions::default()
        }
    }
}

impl Server {
    /// The way to the server for a load, which starts the embedded one again if it is gone.
    pub(super) fn way(&self) -> Way {
        let revive = self.embedded.clone().map(|options| -> Revive {
            Arc::new(move || {
                let options = options.clone();
                Box::pin(async move {
                    let starting =
                        tokio::task::spawn_blocking(move || EmbeddedServer::start(&options, &|_| {}));
                    let started = starting
                        .await
                        .map_err(|panic| Error::bug("start the embedded server").because(panic))?;
                    started.map(|_| ())
                })
            })
        });
        Way { connect: self.settings.clone(), revive }
    }

    /// Opens a session.
    pub(super) async fn connect(&self, name: &str) -> Result<Session> {
        let options = SessionOptions { application_name: Some(name.into()), transaction_timeout: None };
        self.settings.connect(&options).await
    }
}

/// Reads `--option KEY=VALUE`.
pub(super) fn key_value(option: &str, text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err(Error::refused(format!("{option} {text}")).hint(format!("write {option} NAME=VALUE"))),
    }
}
