//! A proxy that understands replies: it can drop, alter and add replies, and
//! switch to another server suddenly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use ringlock_test_support::RedisServer;

/// Returns the bytes to send instead of a reply.
type Twist = Box<dyn FnMut(Vec<u8>) -> Vec<u8> + Send>;

struct Shared {
    target: watch::Sender<PathBuf>,
    twist: Mutex<Twist>,
    hangs_up: AtomicBool,
    is_sudden: AtomicBool,
}

/// Listens on a loopback port in front of a server; it ends when dropped.
pub(crate) struct Liar {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Liar {
    /// It forwards replies unchanged until [`Self::lie`].
    pub(crate) async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: watch::Sender::new(server.socket()),
            twist: Mutex::new(Box::new(|reply| reply)),
            hangs_up: AtomicBool::new(false),
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

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on it sends the result of `twist` for each reply.
    pub(crate) fn lie(&self, twist: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) {
        *self.shared.twist.lock() = Box::new(twist);
    }

    /// It sends these bytes instead of every reply, and then hangs up if
    /// `is_last`.
    pub(crate) fn say(&self, said: &[u8], is_last: bool) {
        let said = said.to_vec();
        self.lie(move |_| said.clone());
        self.shared.hangs_up.store(is_last, Ordering::SeqCst);
    }

    pub(crate) fn tell_the_truth(&self) {
        self.shared.hangs_up.store(false, Ordering::SeqCst);
        self.lie(|reply| reply);
    }

    /// Switches to another server from now on: within open connections if
    /// `is_sudden`, otherwise it closes them.
    pub(crate) fn lead_to(&self, server: &RedisServer, is_sudden: bool) {
        self.shared.is_sudden.store(is_sudden, Ordering::SeqCst);
        self.shared.target.send_replace(server.socket());
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when either side hangs up.
async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut target = shared.target.subscribe();
    let path = target.borrow_and_update().clone();
    let mut real = UnixStream::connect(path).await.expect("the server");
    let (mut asked, mut reported, mut pending) = ([0; 16 * 1024], [0; 16 * 1024], Vec::new());
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(read @ 1..) if real.write_all(&asked[..read]).await.is_ok() => {}
                _ => return,
            },
            read = real.read(&mut reported) => {
                let Ok(read @ 1..) = read else { return };
                pending.extend_from_slice(&reported[..read]);
                let mut said = Vec::new();
                while let Some(len) = reply_len(&pending) {
                    let reply: Vec<u8> = pending.drain(..len).collect();
                    said.extend((shared.twist.lock())(reply));
                }
                if client.write_all(&said).await.is_err() || shared.hangs_up.load(Ordering::SeqCst) {
                    return;
                }
            }
            changed = target.changed() => {
                if changed.is_err() || !shared.is_sudden.load(Ordering::SeqCst) { return }
                let path = target.borrow_and_update().clone();
                real = UnixStream::connect(path).await.expect("the server");
                pending.clear();
            }
        }
    }
}

/// The length of the first reply, once it is complete. This parser is
/// independent of the one under test.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || -> i64 {
        std::str::from_utf8(&bytes[1..end])
            .unwrap()
            .parse()
            .unwrap()
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
