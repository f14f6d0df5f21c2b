//! The command line: one file per command, thin; all output goes through one `Printer`.

mod again;
mod args;
mod cluster;
mod db;
mod generate;
mod load;
mod loads;
mod migrate;
mod printer;
mod progress;
mod rejected_rows;
mod search;
mod seed;
mod server;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};
use self::printer::Printer;
use self::server::Context;
use crate::config::file::PipelineFile;
use crate::error::{Error, Result};

/// Runs the command line of this process; gives its exit code.
pub fn main() -> ExitCode {
    crate::fault::set_up();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, the rest is a refusal; clap knows which stream is whose.
            let code = if error.use_stderr() { 2 } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_closed) => ExitCode::from(1),
            };
        }
    };
    let printer = Printer::new(&arguments.global);
    printer.start_log(&arguments.global);
    crate::source::parquet::quiet_decoder_panics();
    match run(arguments, &printer) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Arguments, printer: &Printer) -> Result<u8> {
    let file = PipelineFile::read(arguments.global.config.as_deref())?;
    let context = Context { global: arguments.global, file, printer };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("start the runtime").because(error))?;
    let code = runtime.block_on(async {
        match arguments.command {
            Command::Load(arguments) => load::run(&context, *arguments).await,
            Command::Generate(arguments) => generate::run(&context, *arguments).await,
            Command::Migrate(arguments) => migrate::run(&context, arguments).await,
            Command::Tune(arguments) => tune::run(&context, arguments).await,
            Command::Seed => seed::run(&context).await,
            Command::Search(arguments) => search::run(&context, arguments).await,
            Command::Verify(arguments) => verify::run(&context, arguments).await,
            Command::Loads(arguments) => loads::run(&context, arguments).await,
            Command::Cluster(arguments) => cluster::run(&context, arguments).await,
            Command::Db(arguments) => db::run(&context, arguments).await,
        }
    });
    // A file read that hangs (a dead network mount) must not keep the process.
    runtime.shutdown_background();
    code
}
