//! A proxy in front of a server, with a network that can be made to fail.

use std::collections::VecDeque;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::server::url_of;

/// Chunks that a connection buffers each way; then it stops reading.
const QUEUE: usize = 256;

/// The largest chunk, in bytes.
const CHUNK: usize = 16 * 1024;

/// The behavior of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Pass,
    /// Everything is delayed.
    Slow(Duration),
    /// Replies are delayed.
    SlowReplies(Duration),
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

    fn delay(self, is_reply: bool) -> Duration {
        match self {
            Self::Slow(delay) => delay,
            Self::SlowReplies(delay) if is_reply => delay,
            _ => Duration::ZERO,
        }
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
pub struct Target(Arc<Mutex<PathBuf>>);

impl Target {
    /// The server on this unix socket.
    pub fn new(socket: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// The socket of the server now.
    pub fn get(&self) -> PathBuf {
        self.0.lock().clone()
    }

    /// Leads new connections to another server.
    pub fn set(&self, socket: PathBuf) {
        *self.0.lock() = socket;
    }
}

/// Listens on a unix socket, in a thread of its own. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    socket: PathBuf,
    state: watch::Sender<State>,
    /// The directory of the socket, if that is its own.
    _directory: Option<TempDir>,
}

impl Proxy {
    /// A proxy in front of the server at `target` that delays its replies.
    pub fn start(target: PathBuf, delay: Duration) -> Self {
        Self::in_mode(target, Mode::SlowReplies(delay))
    }

    /// A proxy, on a socket of its own, in front of the server at `target`.
    pub fn in_mode(target: PathBuf, mode: Mode) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("proxy.sock");
        let proxy = Self::on(socket, Target::new(target), mode);
        Self {
            _directory: Some(directory),
            ..proxy
        }
    }

    /// A proxy on `socket` in front of `target`.
    pub fn on(socket: PathBuf, target: Target, mode: Mode) -> Self {
        let (state, reported) = watch::channel(State { mode, cuts: 0 });
        let listener = StdListener::bind(&socket).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let path = socket.clone();
        std::thread::spawn(move || runtime.block_on(listen(listener, path, target, reported)));
        Self {
            socket,
            state,
            _directory: None,
        }
    }

    /// The node URL.
    pub fn url(&self) -> String {
        url_of(&self.socket)
    }

    /// Changes the behavior of the network, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Cut);
        });
    }

    /// Ends all connections.
    pub fn hang_up(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn listen(
    listener: StdListener,
    socket: PathBuf,
    target: Target,
    mut state: watch::Receiver<State>,
) {
    let mut listener = UnixListener::from_std(listener).expect("a socket");
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
        // The proxy was dropped; waiting would succeed with the last mode.
        if state.has_changed().is_err() {
            return;
        }
        if state.wait_for(|state| !state.mode.refuses()).await.is_err() {
            return;
        }
        listener = UnixListener::bind(&socket).expect("a socket");
    }
}

async fn serve(client: UnixStream, target: PathBuf, state: watch::Receiver<State>) {
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
    let mut buffer = vec![0; CHUNK];
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
                let due = Instant::now() + mode.delay(is_reply);
                queue.push_back((due, buffer[..read].to_vec()));
            }
            () = tokio::time::sleep_until(due.into()), if is_passing => {
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

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Longer than an answer takes on a busy machine.
    const LIMIT: Duration = Duration::from_secs(5);

    /// How long a test waits for what must not come.
    const SILENCE: Duration = Duration::from_millis(50);

    const DELAY: Duration = Duration::from_millis(50);

    /// A server that echoes, behind a proxy.
    struct Echo {
        directory: TempDir,
        received: Arc<AtomicUsize>,
        proxy: Proxy,
    }

    impl Echo {
        fn behind(mode: Mode) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("echo.sock");
            let listener = StdListener::bind(&socket).unwrap();
            let received = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&received);
            std::thread::spawn(move || {
                for mut client in listener.incoming().map_while(Result::ok) {
                    let counter = Arc::clone(&counter);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 1024];
                        while let Ok(read @ 1..) = client.read(&mut buffer) {
                            counter.fetch_add(read, Ordering::SeqCst);
                            if client.write_all(&buffer[..read]).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            Self {
                proxy: Proxy::on(
                    directory.path().join("proxy.sock"),
                    Target::new(socket),
                    mode,
                ),
                directory,
                received,
            }
        }

        fn try_connect(&self) -> std::io::Result<UnixStream> {
            UnixStream::connect(self.directory.path().join("proxy.sock"))
        }

        /// A connection on which `text` was sent.
        fn send(&self, text: &[u8]) -> UnixStream {
            let mut client = self.try_connect().unwrap();
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.write_all(text).unwrap();
            client
        }

        /// Waits until the server has this many bytes.
        fn await_received(&self, bytes: usize) {
            let deadline = Instant::now() + LIMIT;
            while self.received.load(Ordering::SeqCst) < bytes {
                assert!(Instant::now() < deadline, "{bytes} bytes do not arrive");
                std::thread::yield_now();
            }
        }
    }

    /// Reads all of `text`.
    fn expect(client: &mut UnixStream, text: &[u8]) {
        let mut read = vec![0; text.len()];
        client.read_exact(&mut read).unwrap();
        assert_eq!(read, text);
    }

    fn expect_silence(client: &mut UnixStream) {
        client.set_read_timeout(Some(SILENCE)).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        client.set_read_timeout(Some(LIMIT)).unwrap();
    }

    fn expect_end(client: &mut UnixStream) {
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "it hangs up");
    }

    /// The time of one exchange.
    fn round_trip(mode: Mode) -> Duration {
        let echo = Echo::behind(mode);
        let began = Instant::now();
        expect(&mut echo.send(b"hello"), b"hello");
        began.elapsed()
    }

    #[test]
    fn delays_are_kept() {
        assert!(round_trip(Mode::SlowReplies(DELAY)) >= DELAY);
        assert!(round_trip(Mode::Slow(DELAY)) >= 2 * DELAY);
    }

    #[test]
    fn what_is_held_passes_later() {
        let stalled = Echo::behind(Mode::Stall);
        let mut client = stalled.send(b"hello");
        expect_silence(&mut client);
        assert_eq!(stalled.received.load(Ordering::SeqCst), 0);
        stalled.proxy.set(Mode::Pass);
        expect(&mut client, b"hello");

        let late = Echo::behind(Mode::Late);
        let mut client = late.send(b"hello");
        late.await_received(5);
        expect_silence(&mut client);
        late.proxy.set(Mode::Pass);
        expect(&mut client, b"hello");
    }

    #[test]
    fn what_is_dropped_stays_away() {
        let dead = Echo::behind(Mode::HalfOpen);
        let mut client = dead.send(b"hello");
        expect_silence(&mut client);
        dead.proxy.set(Mode::Pass);
        expect_silence(&mut client);
        expect(&mut dead.send(b"again"), b"again");
        assert_eq!(dead.received.load(Ordering::SeqCst), 5);

        let deaf = Echo::behind(Mode::Deaf);
        let mut client = deaf.send(b"hello");
        deaf.await_received(5);
        expect_silence(&mut client);
        deaf.proxy.set(Mode::Pass);
        expect_end(&mut client);
    }

    #[test]
    fn it_hangs_up() {
        let echo = Echo::behind(Mode::Pass);
        let mut client = echo.send(b"hello");
        expect(&mut client, b"hello");
        echo.proxy.hang_up();
        expect_end(&mut client);
        let mut client = echo.send(b"hello");
        expect(&mut client, b"hello");
        echo.proxy.set(Mode::Cut);
        expect_end(&mut client);
        let refused = |echo: &Echo| match echo.try_connect() {
            Ok(mut client) => expect_end(&mut client),
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ),
                "{error}"
            ),
        };
        refused(&echo);
        echo.proxy.set(Mode::Pass);
        let deadline = Instant::now() + LIMIT;
        while echo.try_connect().is_err() {
            assert!(Instant::now() < deadline, "it does not listen again");
        }
        let mut client = echo.send(b"hello");
        expect(&mut client, b"hello");
        echo.proxy.set(Mode::Torn);
        client.write_all(b"0123").unwrap();
        expect(&mut client, b"01");
        expect_end(&mut client);
        refused(&echo);
    }

    #[test]
    fn new_connections_follow_the_target() {
        let (first, second) = (Echo::behind(Mode::Pass), Echo::behind(Mode::Pass));
        let target = Target::new(first.directory.path().join("echo.sock"));
        let socket = first.directory.path().join("other.sock");
        let proxy = Proxy::on(socket.clone(), target.clone(), Mode::Pass);
        let send = || {
            let mut client = UnixStream::connect(&socket).unwrap();
            client.write_all(b"hello").unwrap();
            expect(&mut client, b"hello");
        };
        send();
        target.set(second.directory.path().join("echo.sock"));
        send();
        let received = [first, second].map(|echo| echo.received.load(Ordering::SeqCst));
        assert_eq!(received, [5, 5]);
        drop(proxy);
        let deadline = Instant::now() + LIMIT;
        while socket.exists() {
            assert!(Instant::now() < deadline, "it listens after its end");
            std::thread::yield_now();
        }
    }
}
