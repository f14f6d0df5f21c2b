//! `vecload verify`

use comfy_table::{ContentArrangement, Table};

use super::args::VerifyArguments;
use super::printer::counted;
use super::server::Context;
use crate::error::{Error, Result};
use crate::verify::{Report, verify};

/// Characters of a line of the table; prose in longer ones is hard to read.
const WIDTH_MAX: u16 = 100;

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: VerifyArguments) -> Result<u8> {
    let printer = context.printer;
    let name = context.table()?;
    let server = context.server().await?;
    let mut session = server.connect("vecload verify").await?;
    let tell = |line: &str| printer.say(line);
    let report = verify(&mut session, &name, !arguments.no_count, &tell).await?;
    session.close().await;
    if printer.is_json() {
        printer.json(&report)?;
    } else {
        printer.answer(&filled(printer.table(&["", "check", "found"]), &report).trim_fmt())?;
        printer.say(&format!(
            "{}: {} passed, {}, {} failed, {} skipped",
            report.table,
            report.pass,
            counted(report.warn as u64, "warning", "warnings"),
            report.fail,
            report.skip
        ));
    }
    match report.fail {
        0 => Ok(0),
        fail => {
            let checks = counted(fail as u64, "check failed", "checks failed");
            Err(Error::failed(format!("{checks}: {}", failed(&report)))
                .hint("each says above what is wrong and what to do; then run vecload verify again"))
        }
    }
}

/// Wrapped, also where nobody's terminal sets the width.
fn filled(mut table: Table, report: &Report) -> Table {
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width > WIDTH_MAX) {
        table.set_width(WIDTH_MAX);
    }
    for check in &report.checks {
        let mut lines = vec![check.found.clone()];
        lines.extend(check.cause.as_ref().map(|cause| format!("cause: {cause}")));
        lines.extend(check.cure.as_ref().map(|cure| format!("cure: {cure}")));
        table.add_row([check.outcome.as_str(), check.name, &lines.join("\n")]);
    }
    table
}

fn failed(report: &Report) -> String {
    let is_failed = |check: &&crate::verify::Check| check.outcome == crate::verify::Outcome::Fail;
    let names: Vec<&str> = report.checks.iter().filter(is_failed).map(|check| check.name).collect();
    names.join(", ")
}
