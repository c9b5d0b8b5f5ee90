//! A proxy in front of each server, with a network that can be made to fail.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Chunks that a connection buffers each way; then it stops reading.
const QUEUE: usize = 256;

/// The behavior of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Everything is delayed.
    Slow(Duration),
    /// Nothing passes; it is held.
    Stall,
    /// Connections are permanently dead, and neither side is notified.
    HalfOpen,
    /// Replies are dropped. No network delivers later ones after that;
    /// therefore such a connection ends when the mode ends.
    Deaf,
    /// Replies are held; requests pass.
    Late,
    /// It hung up and refuses connections.
    Cut,
    /// It hangs up in the middle of the next reply and refuses connections.
    Torn,
}

impl Mode {
    fn refuses(self) -> bool {
        matches!(self, Self::Cut | Self::Torn)
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// How often it has hung up.
    cuts: u64,
}

/// The server's socket; it may change.
#[derive(Clone, Debug)]
pub(crate) struct Target(Arc<Mutex<PathBuf>>);

impl Target {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    pub(crate) fn get(&self) -> PathBuf {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, socket: PathBuf) {
        *self.0.lock() = socket;
    }
}

/// Ends with its runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    socket: PathBuf,
    state: watch::Sender<State>,
}

impl Proxy {
    /// Listens on `socket`; must be called within a runtime.
    pub(crate) fn start(socket: PathBuf, target: Target) -> Self {
        let mode = Mode::Pass;
        let (state, reported) = watch::channel(State { mode, cuts: 0 });
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(listen(listener, socket.clone(), target, reported));
        Self { socket, state }
    }

    /// The node URL.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Cut);
        });
    }

    pub(crate) fn hang_up(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn listen(
    mut listener: UnixListener,
    socket: PathBuf,
    target: Target,
    mut state: watch::Receiver<State>,
) {
    let served = state.clone();
    loop {
        loop {
            let client = tokio::select! {
                client = listener.accept() => client,
                _ = state.wait_for(|state| state.mode.refuses()) => break,
            };
            // A client whose connection was closed may connect again before the
            // listener is gone.
            if let Ok((client, _)) = client
                && !state.borrow().mode.refuses()
            {
                tokio::spawn(serve(client, target.get(), served.clone()));
            }
        }
        drop(listener);
        let _ = std::fs::remove_file(&socket);
        if state.wait_for(|state| !state.mode.refuses()).await.is_err() {
            return;
        }
        listener = UnixListener::bind(&socket).expect("a socket");
    }
}

async fn serve(client: UnixStream, target: impl AsRef<Path>, state: watch::Receiver<State>) {
    let Ok(server) = UnixStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, false, state.clone()) => {}
        () = pump(from_server, to_client, true, state) => {}
    }
}

/// Forwards bytes, one way, until one side hangs up or the proxy does.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_reply: bool,
    mut state: watch::Receiver<State>,
) {
    let cuts = state.borrow().cuts;
    let mut hung_up = state.clone();
    let mut queue = VecDeque::new();
    let mut buffer = vec![0; 16 * 1024];
    let (mut is_dead, mut has_swallowed) = (false, false);
    loop {
        let State { mode, cuts: latest } = *state.borrow_and_update();
        let has_hung_up = latest != cuts || mode == Mode::Cut;
        if has_hung_up || has_swallowed && mode != Mode::Deaf {
            return;
        }
        is_dead |= mode == Mode::HalfOpen;
        if is_dead {
            queue.clear();
        }
        let due = queue.front().map_or_else(Instant::now, |(due, _)| *due);
        let is_held = mode == Mode::Stall || is_reply && mode == Mode::Late;
        let is_passing = !queue.is_empty() && !is_held;
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = from.read(&mut buffer), if queue.len() < QUEUE => {
                let Ok(read @ 1..) = read else { return };
                let delay = if let Mode::Slow(delay) = mode { delay } else { Duration::ZERO };
                queue.push_back((Instant::now() + delay, buffer[..read].to_vec()));
            }
            () = tokio::time::sleep_until(due), if is_passing => {
                let Some((_, bytes)) = queue.pop_front() else { continue };
                let passed = match mode {
                    Mode::Deaf if is_reply => {
                        has_swallowed = true;
                        continue;
                    }
                    Mode::Torn if is_reply => &bytes[..bytes.len() / 2],
                    _ => &bytes[..],
                };
                let is_written = tokio::select! {
                    written = to.write_all(passed) => written.is_ok(),
                    _ = hung_up.wait_for(|state| state.cuts != cuts) => false,
                };
                if !is_written || passed.len() < bytes.len() {
                    return;
                }
            }
        }
    }
}
