//! A fake server: it sends the answers that a test chooses, or the answers of a
//! real server, changed or not.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::server::RedisServer;

/// Returns the bytes to send instead of a reply of the real server.
type Twist = Box<dyn FnMut(Vec<u8>) -> Vec<u8> + Send>;

/// What a fake server answers.
#[derive(Clone, Debug)]
pub enum Answers {
    /// Nothing, ever.
    Nothing,
    /// These bytes, to each chunk of bytes that it receives.
    Bytes(Vec<u8>),
    /// These bytes, and then it hangs up.
    Last(Vec<u8>),
    /// The answers of a real server.
    Truth,
}

/// What a fake server does.
enum Script {
    /// It answers each chunk itself, but for [`Answers::Truth`].
    Own(Answers),
    /// A real server gets the requests, and each of its replies is replaced.
    Twisted { twist: Twist, is_last: bool },
}

impl Script {
    /// What it answers to a chunk without a real server, and whether it hangs up
    /// then; `None`: a real server answers.
    fn own_answer(&self) -> Option<(Vec<u8>, bool)> {
        match self {
            Self::Own(Answers::Nothing) => Some((Vec::new(), false)),
            Self::Own(Answers::Bytes(bytes)) => Some((bytes.clone(), false)),
            Self::Own(Answers::Last(bytes)) => Some((bytes.clone(), true)),
            Self::Own(Answers::Truth) | Self::Twisted { .. } => None,
        }
    }

    /// What it sends for the complete replies of the real server, which it takes
    /// from `pending`, and whether it hangs up then.
    fn replace(&mut self, pending: &mut Vec<u8>) -> (Vec<u8>, bool) {
        let mut said = Vec::new();
        while let Some(len) = reply_len(pending) {
            let reply: Vec<u8> = pending.drain(..len).collect();
            match self {
                Self::Own(_) => said.extend(reply),
                Self::Twisted { twist, .. } => said.extend(twist(reply)),
            }
        }
        (said, matches!(self, Self::Twisted { is_last: true, .. }))
    }
}

struct Shared {
    /// The socket of the real server.
    real: watch::Sender<Option<PathBuf>>,
    script: Mutex<Script>,
    is_sudden: AtomicBool,
}

/// A listener on a loopback port; it ends when dropped.
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FakeServer").field(&self.address).finish()
    }
}

impl FakeServer {
    /// A server that gives these answers.
    pub async fn answering(answers: Answers) -> Self {
        Self::start(answers, None).await
    }

    /// A server that gives the answers of `server`, until [`Self::answer`],
    /// [`Self::lie`] or [`Self::say`].
    pub async fn before(server: &RedisServer) -> Self {
        Self::start(Answers::Truth, Some(server.socket())).await
    }

    async fn start(answers: Answers, real: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            real: watch::Sender::new(real),
            script: Mutex::new(Script::Own(answers)),
            is_sudden: AtomicBool::new(false),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(serve(client, Arc::clone(&of_task)));
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// The node URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes its answers from now on.
    pub fn answer(&self, answers: Answers) {
        *self.shared.script.lock() = Script::Own(answers);
    }

    /// From now on it gives the answers of the real server.
    pub fn tell_the_truth(&self) {
        self.answer(Answers::Truth);
    }

    /// From now on it sends what `twist` returns for each reply of the real
    /// server.
    pub fn lie(&self, twist: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) {
        let (twist, is_last) = (Box::new(twist), false);
        *self.shared.script.lock() = Script::Twisted { twist, is_last };
    }

    /// From now on it sends these bytes instead of each reply of the real
    /// server, and then hangs up if `is_last`.
    pub fn say(&self, said: &[u8], is_last: bool) {
        let said = said.to_vec();
        let twist = Box::new(move |_| said.clone());
        *self.shared.script.lock() = Script::Twisted { twist, is_last };
    }

    /// Switches to another real server from now on: within open connections if
    /// `is_sudden`, otherwise it closes them.
    pub fn lead_to(&self, server: &RedisServer, is_sudden: bool) {
        self.shared.is_sudden.store(is_sudden, Ordering::SeqCst);
        self.shared.real.send_replace(Some(server.socket()));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(socket: Option<PathBuf>) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket?).await;
    Some(stream.expect("the server"))
}

/// Ends when either side hangs up: the other side notices that itself.
async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut target = shared.real.subscribe();
    let socket = target.borrow_and_update().clone();
    let mut real = connect(socket).await;
    let (mut asked, mut reported, mut pending) = ([0; 16 * 1024], [0; 16 * 1024], Vec::new());
    loop {
        let from_real = async {
            match &mut real {
                Some(real) => real.read(&mut reported).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        let (said, is_last) = tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let own = shared.script.lock().own_answer();
                match own {
                    Some(answer) => answer,
                    None => {
                        let real = real.as_mut().expect("a real server");
                        if real.write_all(&asked[..read]).await.is_err() { return }
                        continue;
                    }
                }
            }
            read = from_real => {
                if read == 0 { return }
                pending.extend_from_slice(&reported[..read]);
                shared.script.lock().replace(&mut pending)
            }
            changed = target.changed() => {
                if changed.is_err() || !shared.is_sudden.load(Ordering::SeqCst) { return }
                let socket = target.borrow_and_update().clone();
                real = connect(socket).await;
                pending.clear();
                continue;
            }
        };
        if client.write_all(&said).await.is_err() || is_last {
            return;
        }
    }
}

/// The length of the first reply, once it is complete. This parser is
/// independent of the one under test.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || -> i64 {
        let text = std::str::from_utf8(&bytes[1..end]).expect("a length");
        text.parse().expect("a length")
    };
    let after = end + 2;
    match bytes[0] {
        b'$' | b'=' if number() >= 0 => {
            let len = after + number() as usize + 2;
            (bytes.len() >= len).then_some(len)
        }
        b'*' | b'>' | b'%' if number() > 0 => {
            let items = number() * if bytes[0] == b'%' { 2 } else { 1 };
            (0..items).try_fold(after, |at, _| Some(at + reply_len(&bytes[at..])?))
        }
        _ => Some(after),
    }
}
