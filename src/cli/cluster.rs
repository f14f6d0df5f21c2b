//! `vecload cluster`

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::args::{ClusterArguments, ClusterCommand};
use super::printer::{Printer, ProgressStyle, counted, shown_seconds};
use super::progress::{LINE_EVERY, style};
use super::server::{Context, Server};
use crate::cluster::{
    self, AddRequest, Address, ClusterStatus, Disk, Job, Move, NodeStatus, Removal, Started,
};
use crate::config::sizes::show_size;
use crate::error::{Error, Result};
use crate::pipeline::interrupts::Interrupts;
use crate::pipeline::stop::StopFlag;
use crate::postgres::Session;

/// Between two looks at moves.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the command.
pub(super) async fn run(context: &Context<'_>, arguments: ClusterArguments) -> Result<u8> {
    // What does not parse is refused before anything is started or connected to.
    let address = |text: &String| text.parse::<Address>();
    let (node, coordinator) = match &arguments.command {
        ClusterCommand::Add { node, coordinator } => {
            (Some(address(node)?), coordinator.as_ref().map(address).transpose()?)
        }
        ClusterCommand::Remove { node, .. } => (Some(address(node)?), None),
        ClusterCommand::Status | ClusterCommand::Rebalance { .. } => (None, None),
    };
    let server = context.server().await?;
    let session = server.connect("vecload cluster").await?;
    cluster::require(&session).await?;
    cluster::bound_connects(&session).await?;
    match (arguments.command, node) {
        (ClusterCommand::Add { .. }, Some(node)) => add(context, &session, node, coordinator).await?,
        (ClusterCommand::Remove { block_writes, .. }, Some(node)) => {
            remove(context, &server, &session, &node, block_writes).await?;
        }
        (ClusterCommand::Rebalance { stop: true, .. }, _) => stop(context.printer, &session).await?,
        (ClusterCommand::Rebalance { block_writes, .. }, _) => {
            rebalance(context.printer, &session, block_writes).await?;
        }
        _ => {
            let status = cluster::status(&session, &context.table()?).await?;
            match context.printer.is_json() {
                true => context.printer.json(&status)?,
                false => print_status(context.printer, &status)?,
            }
        }
    }
    session.close().await;
    Ok(0)
}

async fn add(
    context: &Context<'_>,
    session: &Session,
    node: Address,
    coordinator: Option<Address>,
) -> Result<()> {
    let printer = context.printer;
    let request = AddRequest { node, coordinator, connected_to: session.peer().parse().ok() };
    let added = cluster::add(session, &request).await?;
    for note in &added.notes {
        printer.warn(note);
    }
    if printer.is_json() {
        return printer.json(&added);
    }
    if let Some(coordinator) = added.coordinator.as_ref().filter(|_| added.registered_coordinator) {
        printer.say(&format!("the coordinator is registered as {coordinator}"));
    }
    for extension in &added.created_extensions {
        printer.say(&format!("created the extension {extension} on {}", added.node));
    }
    let node = &added.node;
    printer.answer(&match added.state {
        "present" => format!("{node} is a node already"),
        "activated" => format!("{node} was inactive, and is active again"),
        "takes_shards" => format!("{node} is a node already, and takes shards again"),
        _ => format!("{node} is a node now"),
    })?;
    if added.state != "present" {
        printer.say("shards come to it with: vecload cluster rebalance");
    }
    Ok(())
}

async fn remove(
    context: &Context<'_>,
    server: &Server,
    session: &Session,
    node: &Address,
    block_writes: bool,
) -> Result<()> {
    let printer = context.printer;
    let removal = Removal::prepare(session, node, block_writes).await?;
    if removal.shards > 0 {
        let shards = counted(removal.shards, "shard", "shards");
        printer
            .say(&format!("moving {shards} ({}) from {node} to the other nodes", show_size(removal.bytes)));
        let mover = server.connect("vecload cluster remove").await?;
        drain(printer, session, &mover, &removal, node).await?;
        mover.close().await;
    }
    let removed = removal.finish(session).await?;
    match printer.is_json() {
        true => printer.json(&removed),
        false => {
            let moved = counted(removed.moved_shards, "shard", "shards");
            printer.answer(&format!("{node} is no node any more; {moved} moved"))
        }
    }
}

/// Moves the shards on a session of its own, and shows how far it is.
async fn drain(
    printer: &Printer,
    session: &Session,
    mover: &Session,
    removal: &Removal,
    node: &Address,
) -> Result<()> {
    let interrupts = Interrupts::listen(&StopFlag::default())?;
    let mut progress = MoveProgress::new(printer, removal.shards);
    let mut moves = std::pin::pin!(removal.drain(mover));
    loop {
        tokio::select! {
            done = &mut moves => {
                progress.end();
                return done;
            }
            stopped = interrupts.first() => {
                mover.cancel().await?;
                // It rolls the move back that is at work, which another run would trip over.
                drop(moves.await);
                return Err(stopped.hint(format!(
                    "shards that have moved stay where they are, and {node} gets no new ones; go on with: vecload \
                     cluster remove {node}; or use the node again with: vecload cluster add {node}"
                )));
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                let (left, moving) = removal.look(session).await?;
                progress.show(removal.shards.saturating_sub(left), None, &moving);
            }
        }
    }
}

async fn stop(printer: &Printer, session: &Session) -> Result<()> {
    let stopped = cluster::stop(session).await?;
    match (stopped, printer.is_json()) {
        (Some(job), true) => print_job(printer, "stopped", Some(&job)),
        (None, true) => print_job(printer, "none", None),
        (None, false) => printer.answer("no rebalance is at work"),
        (Some(job), false) => printer.answer(&format!(
            "rebalance {} is stopped: {} of {} done",
            job.job,
            job.moves_done,
            counted(job.moves, "move", "moves")
        )),
    }
}

async fn rebalance(printer: &Printer, session: &Session, block_writes: bool) -> Result<()> {
    let job = match cluster::start(session, block_writes).await? {
        Started::Balanced => {
            return match printer.is_json() {
                true => print_job(printer, "balanced", None),
                false => {
                    printer.answer("Citus finds no shard to move: they are spread evenly, by their size")
                }
            };
        }
        Started::Began(job) => {
            printer.say(&format!("rebalance {} began: {}", job.job, counted(job.moves, "move", "moves")));
            job
        }
        Started::Running(job) => {
            printer.say(&format!("rebalance {} is at work already; following it", job.job));
            job
        }
    };
    let interrupts = Interrupts::listen(&StopFlag::default())?;
    let ended = tokio::select! {
        ended = follow(printer, session, job) => ended?,
        stopped = interrupts.first() => return Err(stopped.hint(
            "the rebalance goes on in the background; follow it with `vecload cluster rebalance`, stop it with --stop",
        )),
    };
    if ended.state == "failed" {
        let why = ended.problems.first().map_or(String::new(), |problem| format!(": {problem}"));
        let done = format!("{} of {}", ended.moves_done, counted(ended.moves, "move", "moves"));
        return Err(Error::failed(format!("rebalance {} failed after {done}{why}", ended.job)).hint(
            "shards that have moved stay where they are; remove the cause, then run the same command again",
        ));
    }
    if ended.state == "cancelled" {
        return Err(Error::failed(format!("rebalance {} was stopped by somebody", ended.job))
            .hint("shards that have moved stay where they are; the same command moves the others"));
    }
    match printer.is_json() {
        true => print_job(printer, "finished", Some(&ended)),
        false => printer.answer(&format!(
            "rebalance {} finished: {} in {}",
            ended.job,
            counted(ended.moves_done, "move", "moves"),
            shown_seconds(ended.seconds)
        )),
    }
}

/// Shows a job until it ends.
async fn follow(printer: &Printer, session: &Session, mut job: Job) -> Result<Job> {
    let mut progress = MoveProgress::new(printer, job.moves);
    let mut told = Vec::new();
    while !job.has_ended() {
        progress.show(job.moves_done, Some(&job), &job.moving);
        for problem in &job.problems {
            // Citus tries again by itself, and says the same again.
            if !told.contains(problem) {
                let line = format!("{problem} (Citus tries it again; --stop ends that)");
                progress.bar.suspend(|| printer.warn(&line));
                told.push(problem.clone());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        job = cluster::job(session, job.job).await?;
    }
    progress.end();
    Ok(job)
}

fn print_job(printer: &Printer, state: &str, job: Option<&Job>) -> Result<()> {
    printer.json(&serde_json::json!({
        "state": state,
        "job": job.map(|job| job.job),
        "moves": job.map(|job| job.moves),
        "moves_done": job.map(|job| job.moves_done),
        "seconds": job.map(|job| job.seconds),
    }))
}

/// Moves of shards: a bar on a terminal, else a line when one is complete and now and then.
struct MoveProgress<'a> {
    printer: &'a Printer,
    bar: ProgressBar,
    moves: u64,
    last: Option<(Instant, u64)>,
}

impl<'a> MoveProgress<'a> {
    fn new(printer: &'a Printer, moves: u64) -> Self {
        let bar = match printer.progress_style() {
            ProgressStyle::Bars => ProgressBar::new(moves),
            _ => ProgressBar::hidden(),
        };
        bar.set_style(style("{wide_bar} {pos} of {len} moves  {msg}"));
        Self { printer, bar, moves, last: None }
    }

    fn show(&mut self, done: u64, job: Option<&Job>, moving: &[Move]) {
        let eta =
            job.and_then(Job::eta_seconds).map_or(String::new(), |eta| format!("ETA {}", shown_seconds(eta)));
        self.bar.set_position(done);
        self.bar.set_message(eta.clone());
        let is_news = self.last.is_none_or(|(at, before)| before != done || at.elapsed() >= LINE_EVERY);
        if self.printer.progress_style() != ProgressStyle::Lines || !is_news {
            return;
        }
        self.last = Some((Instant::now(), done));
        let mut line = format!("{done} of {}", counted(self.moves, "move", "moves"));
        for one in moving {
            let percent = one.copied_bytes.min(one.bytes) * 100 / one.bytes.max(1);
            let phase =
                if one.phase.is_empty() { String::new() } else { format!(", {}", one.phase.to_lowercase()) };
            line.push_str(&format!("; {} shard {} to {}: {percent} %{phase}", one.table, one.shard, one.to));
        }
        let eta = if eta.is_empty() { eta } else { format!("; {eta}") };
        self.printer.say(&format!("{line}{eta}"));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn print_status(printer: &Printer, status: &ClusterStatus) -> Result<()> {
    let of_table = format!("of {}", status.table);
    let mut table = printer.table(&[
        "node",
        "role",
        "state",
        "PostgreSQL",
        "Citus",
        "pgvector",
        "shards",
        &of_table,
        "size",
        "database",
        "disk free",
    ]);
    for node in &status.nodes {
        let address = node.address.as_ref().map_or("(here)".into(), Address::to_string);
        let role = match &node.clone_of {
            Some(cloned) => format!("clone of {cloned}"),
            None => node.role.into(),
        };
        let mut row = vec![address, role, state(node).into()];
        let none = || "-".to_string();
        match &node.facts {
            None => row.extend(std::iter::repeat_with(none).take(7)),
            Some(facts) => row.extend([
                facts.postgres.clone(),
                facts.citus.clone().unwrap_or_else(none),
                facts.pgvector.clone().unwrap_or_else(none),
                facts.shards.to_string(),
                facts.table_shards.to_string(),
                show_size(facts.table_bytes),
                show_size(facts.database_bytes),
            ]),
        }
        let free = |disk: Disk| format!("{} of {}", show_size(disk.free_bytes), show_size(disk.total_bytes));
        row.push(node.disk.map_or_else(none, free));
        table.add_row(row);
    }
    printer.answer(&table.trim_fmt())?;
    for node in &status.nodes {
        let name = node.address.as_ref().map_or("the coordinator".into(), Address::to_string);
        if let Some(problem) = &node.problem {
            printer.warn(&format!("{name}: {problem}"));
        } else if let Some(why) = &node.disk_unknown {
            printer.say(&format!("the disk of {name} is not known: {why}"));
        }
    }
    if !status.coordinator_registered {
        printer.warn(
            "the coordinator is not registered, so workers can't reach it: vecload cluster add does that, or select \
             citus_set_coordinator_host('HOST', PORT)",
        );
    }
    match &status.rebalance {
        None => printer.answer("no rebalance is at work"),
        Some(job) => {
            let eta = job.eta_seconds().map_or(String::new(), |eta| format!(", ETA {}", shown_seconds(eta)));
            let moves = counted(job.moves, "move", "moves");
            printer.answer(&format!(
                "rebalance {}: {}, {} of {moves} done{eta}",
                job.job, job.state, job.moves_done
            ))
        }
    }
}

fn state(node: &NodeStatus) -> &'static str {
    match node {
        NodeStatus { reachable: false, .. } => "unreachable",
        NodeStatus { active: false, .. } => "inactive",
        NodeStatus { problem: Some(_), facts: Some(_), .. } => "another server",
        NodeStatus { role: "worker", takes_shards: false, .. } => "takes no shards",
        _ => "ok",
    }
}
