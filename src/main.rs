//! The `vecload` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vecload::cli::main()
}
