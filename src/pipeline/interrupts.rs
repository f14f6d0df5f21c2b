//! SIGINT, SIGTERM and SIGHUP (the terminal is gone): the first ends a load in order, wherever it is; the second at
//! once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stop::StopFlag;
use crate::error::{Context, Error, Result};

/// Listens from the opening of the sources to the end of the load.
#[derive(Debug)]
pub struct Interrupts {
    first: watch::Receiver<Option<&'static str>>,
    listener: JoinHandle<()>,
}

impl Interrupts {
    /// Listens; the first signal also sets the flag, at which waits for standard input end.
    pub fn listen(flag: &StopFlag) -> Result<Self> {
        let of = |kind| signal(kind).or_failed(|| "listen for signals".into());
        let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = signals.map(of);
        let signals = (interrupt?, terminate?, hangup?);
        let (sender, first) = watch::channel(None);
        let listener = tokio::spawn(listen(signals, sender, flag.clone()));
        Ok(Self { first, listener })
    }

    /// Waits for the first signal.
    pub async fn first(&self) -> Error {
        let mut first = self.first.clone();
        let name = first.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(name) => Error::interrupted(format!("interrupted by {}", name.unwrap_or("a signal"))),
            // Nobody listens any more.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn listen(
    (mut interrupt, mut terminate, mut hangup): (Signal, Signal, Signal),
    first: watch::Sender<Option<&'static str>>,
    flag: StopFlag,
) {
    for round in 0.. {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        };
        if round > 0 {
            #[expect(clippy::exit, reason = "asked twice: open transactions are rolled back by the server")]
            std::process::exit(130);
        }
        flag.set();
        first.send_replace(Some(name));
    }
}
