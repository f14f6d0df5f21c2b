//! A TCP proxy in front of a server: it cuts connections, stalls them, and loses COMMITs or their answers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use crate::session::runtime;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As if the other side had closed it.
    Close,
    /// As if the other side knew nothing of it.
    Reset,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Pass,
    /// Nothing goes through, and both ends stay open.
    Stall,
    End(Ending),
}

/// Which connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// All there are.
    All,
    /// One of them, counted around.
    One(u64),
}

/// What is lost of a COMMIT.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// It never reaches the server.
    Request,
    /// The server commits and answers; the answer goes nowhere, and the connection ends.
    Answer,
    /// The server gets it and sees the connection end at the same time.
    Either,
    /// The server commits; the client waits for an answer that doesn't come.
    Silence,
}

/// A COMMIT to lose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ambush {
    /// How many pass before it.
    pub(crate) after: u64,
    /// What is lost.
    pub(crate) loss: Loss,
    /// How its connection ends.
    pub(crate) ending: Ending,
}

/// The proxy, with a thread of its own; dropping it ends all connections.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    socket: Mutex<PathBuf>,
    links: Mutex<Vec<Arc<Link>>>,
    /// What new connections meet.
    newcomers: Mutex<Order>,
    ambush: Mutex<Option<Ambush>>,
    commits: AtomicU64,
}

struct Link {
    order: watch::Sender<Order>,
    /// From here on an answer ends the connection.
    ends_at_answer: Mutex<Option<Ending>>,
    is_over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with this lock")
}

impl Proxy {
    /// Leads to a server's Unix-domain socket.
    pub(crate) fn to(socket: &Path) -> Self {
        let shared = Arc::new(Shared {
            socket: Mutex::new(socket.into()),
            links: Mutex::default(),
            newcomers: Mutex::new(Order::Pass),
            ambush: Mutex::default(),
            commits: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let for_all = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("proxy".into());
        let thread = thread.spawn(move || {
            let runtime = runtime();
            runtime.block_on(accept(listener, for_all, stopped));
        });
        Self { port, shared, stop, thread: Some(thread.expect("start the proxy")) }
    }

    /// The URL of a database, through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://vecload@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The server was started again, perhaps with another socket.
    pub(crate) fn leads_to(&self, socket: &Path) {
        *lock(&self.shared.socket) = socket.into();
    }

    /// COMMITs that clients have sent.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Acquire)
    }

    /// Ends connections; says how many.
    pub(crate) fn cut(&self, which: Which, ending: Ending) -> usize {
        self.order(which, Order::End(ending))
    }

    /// Stalls connections, with all of them new ones too; says how many.
    pub(crate) fn stall(&self, which: Which) -> usize {
        if matches!(which, Which::All) {
            *lock(&self.shared.newcomers) = Order::Stall;
        }
        self.order(which, Order::Stall)
    }

    /// Lets everything through again, also what was held back.
    pub(crate) fn release(&self) {
        self.let_newcomers_in();
        for link in self.links() {
            link.order.send_if_modified(|order| std::mem::replace(order, Order::Pass) == Order::Stall);
        }
    }

    /// New connections pass; those that are stalled stay so.
    pub(crate) fn let_newcomers_in(&self) {
        *lock(&self.shared.newcomers) = Order::Pass;
    }

    /// Ends what is stalled.
    pub(crate) fn cut_stalled(&self) -> usize {
        let stalled: Vec<_> =
            self.links().into_iter().filter(|link| *link.order.borrow() == Order::Stall).collect();
        for link in &stalled {
            link.order.send_replace(Order::End(Ending::Close));
        }
        stalled.len()
    }

    /// Lies in wait for a COMMIT.
    pub(crate) fn lie_in_ambush(&self, ambush: Ambush) {
        *lock(&self.shared.ambush) = Some(ambush);
    }

    /// Whether it still waits.
    pub(crate) fn lies_in_ambush(&self) -> bool {
        lock(&self.shared.ambush).is_some()
    }

    /// Waits no longer; says whether it still did.
    pub(crate) fn leave_ambush(&self) -> bool {
        lock(&self.shared.ambush).take().is_some()
    }

    fn links(&self) -> Vec<Arc<Link>> {
        let mut links = lock(&self.shared.links);
        links.retain(|link| !link.is_over.load(Ordering::Acquire));
        links.clone()
    }

    fn order(&self, which: Which, order: Order) -> usize {
        let links = self.links();
        let chosen = match which {
            Which::All => &links[..],
            Which::One(_) if links.is_empty() => &[],
            Which::One(number) => std::slice::from_ref(&links[(number % links.len() as u64) as usize]),
        };
        for link in chosen {
            link.order.send_replace(order);
        }
        chosen.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Takes connections until it is told to stop.
async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted.expect("accept a connection").0,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let link = Arc::new(Link {
            order: watch::Sender::new(*lock(&shared.newcomers)),
            ends_at_answer: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        lock(&shared.links).push(Arc::clone(&link));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve(client, &shared, &link).await;
            link.is_over.store(true, Ordering::Release);
        });
    }
}

/// One connection, until either side or an order ends it.
async fn serve(mut client: TcpStream, shared: &Shared, link: &Link) {
    let socket = lock(&shared.socket).clone();
    let Ok(mut server) = UnixStream::connect(&socket).await else {
        drop(client.set_zero_linger());
        return;
    };
    drop(client.set_nodelay(true));
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            ending = requests(from_client, to_server, shared, link) => ending,
            ending = answers(from_server, to_client, link) => ending,
            ending = ordered_end(link) => ending,
        }
    };
    if ending == Ending::Reset {
        drop(client.set_zero_linger());
    }
}

async fn ordered_end(link: &Link) -> Ending {
    let mut orders = link.order.subscribe();
    let order = orders.wait_for(|order| matches!(order, Order::End(_))).await.map(|order| *order);
    match order {
        Ok(Order::End(ending)) => ending,
        _ => Ending::Close,
    }
}

async fn while_stalled(link: &Link) {
    let mut orders = link.order.subscribe();
    drop(orders.wait_for(|order| *order != Order::Stall).await);
}

async fn requests(
    mut client: impl AsyncReadExt + Unpin,
    mut server: impl AsyncWriteExt + Unpin,
    shared: &Shared,
    link: &Link,
) -> Ending {
    let mut buffer = vec![0; 64 << 10];
    let mut messages = Messages::default();
    loop {
        // Stalled, it doesn't even notice that a client has gone.
        while_stalled(link).await;
        let Ok(count @ 1..) = client.read(&mut buffer).await else { return Ending::Close };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let (taken, is_commit) = messages.until_commit(rest);
            let (piece, left) = rest.split_at(taken);
            rest = left;
            while_stalled(link).await;
            let ambush = if is_commit { shared.meet() } else { None };
            match ambush {
                Some(Ambush { loss: Loss::Request, ending, .. }) => return ending,
                Some(Ambush { loss: Loss::Answer, ending, .. }) => {
                    *lock(&link.ends_at_answer) = Some(ending);
                }
                Some(Ambush { loss: Loss::Silence, .. }) => {
                    link.order.send_replace(Order::Stall);
                }
                Some(Ambush { loss: Loss::Either, .. }) | None => {}
            }
            if server.write_all(piece).await.is_err() {
                return Ending::Close;
            }
            if let Some(Ambush { loss: Loss::Either, ending, .. }) = ambush {
                return ending;
            }
        }
    }
}

async fn answers(
    mut server: impl AsyncReadExt + Unpin,
    mut client: impl AsyncWriteExt + Unpin,
    link: &Link,
) -> Ending {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = server.read(&mut buffer).await.unwrap_or(0);
        if let Some(ending) = *lock(&link.ends_at_answer) {
            return ending;
        }
        // A client doesn't hear of the server's end either.
        while_stalled(link).await;
        if count == 0 || client.write_all(&buffer[..count]).await.is_err() {
            return Ending::Close;
        }
    }
}

impl Shared {
    /// A COMMIT comes by: the ambush, if it was laid for this one.
    fn meet(&self) -> Option<Ambush> {
        self.commits.fetch_add(1, Ordering::AcqRel);
        let mut waiting = lock(&self.ambush);
        match waiting.as_mut() {
            Some(Ambush { after: 0, .. }) => waiting.take(),
            Some(ambush) => {
                ambush.after -= 1;
                None
            }
            None => None,
        }
    }
}

/// A client's messages, cut out of what arrives: a byte that says the kind (the first message has none), four
/// with the length, which counts itself, and the rest.
#[derive(Default)]
struct Messages {
    has_begun: bool,
    header: Vec<u8>,
    left: usize,
    /// The text of a simple query, as far as a COMMIT could go.
    query: Option<Vec<u8>>,
}

impl Messages {
    /// Takes bytes up to the end of the next COMMIT, or all, and says which of both.
    fn until_commit(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            if self.left == 0 {
                self.header.push(bytes[at]);
                at += 1;
                let Some(length) = self.length() else { continue };
                self.left = length;
                self.query = (self.has_begun && self.header[0] == b'Q').then(Vec::new);
                self.has_begun = true;
                self.header.clear();
            }
            let part = &bytes[at..bytes.len().min(at + self.left)];
            if let Some(query) = self.query.as_mut().filter(|query| query.len() < 64) {
                query.extend(part.iter().take(64));
            }
            at += part.len();
            self.left -= part.len();
            if self.left == 0 && self.query.take().is_some_and(|query| is_commit(&query)) {
                return (at, true);
            }
        }
        (at, false)
    }

    /// Bytes after the header, once all of it is there.
    fn length(&self) -> Option<usize> {
        let length = self.header.get(usize::from(self.has_begun)..)?.first_chunk::<4>()?;
        Some((u32::from_be_bytes(*length) as usize).saturating_sub(4))
    }
}

fn is_commit(query: &[u8]) -> bool {
    let text = query.strip_suffix(b"\0").unwrap_or(query).trim_ascii();
    text.strip_suffix(b";").unwrap_or(text).eq_ignore_ascii_case(b"commit")
}

#[test]
fn commits_are_found_however_the_bytes_arrive() {
    let message = |kind: &[u8], body: &[u8]| [kind, &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let commit = message(b"Q", b"COMMIT\0");
    let parts = [
        message(b"", b"\0\x03\0\0user\0vecload\0\0"),
        message(b"Q", b"begin\0"),
        message(b"d", &commit),
        message(b"d", &vec![b'Q'; 300_000]),
        message(b"c", b""),
        message(b"Q", b"commit; select 1\0"),
        commit,
        message(b"S", b""),
        message(b"Q", b" commit; \0"),
        message(b"X", b""),
    ];
    let all = parts.concat();
    let wanted = [parts[..7].concat().len(), parts[..9].concat().len()];
    for step in [1, 2, 5, 7, 4_096, 65_536, all.len()] {
        let (mut messages, mut found, mut before) = (Messages::default(), Vec::new(), 0);
        for chunk in all.chunks(step) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let (taken, is_commit) = messages.until_commit(rest);
                before += taken;
                found.extend(is_commit.then_some(before));
                rest = &rest[taken..];
            }
        }
        assert_eq!(found, wanted, "in steps of {step}");
    }
}
