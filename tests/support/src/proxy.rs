//! Proxies: one delays a server's answers, one limits the rate of requests.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Listens on its own unix socket and delays every byte of the answers. It ends
/// with its process.
#[derive(Debug)]
pub struct Proxy {
    directory: TempDir,
}

impl Proxy {
    /// A proxy in front of the server at `target` that delays its answers.
    pub fn start(target: PathBuf, delay: Duration) -> Self {
        Self::run(target, move |client, server| {
            let (to_client, to_server) = (handle(&client), handle(&server));
            std::thread::spawn(move || copy(client, to_server, Duration::ZERO));
            std::thread::spawn(move || copy(server, to_client, delay));
        })
    }

    /// A proxy that passes at most this many bytes per second to the server.
    pub fn throttled(target: PathBuf, bytes_per_second: u32) -> Self {
        Self::run(target, move |client, server| {
            let (to_client, to_server) = (handle(&client), handle(&server));
            std::thread::spawn(move || drip(client, to_server, bytes_per_second));
            std::thread::spawn(move || copy(server, to_client, Duration::ZERO));
        })
    }

    fn run(target: PathBuf, serve: impl Fn(UnixStream, UnixStream) + Send + 'static) -> Self {
        let proxy = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        let listener = UnixListener::bind(proxy.socket()).expect("a socket");
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                serve(client, UnixStream::connect(&target).expect("the server"));
            }
        });
        proxy
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("proxy.sock")
    }

    /// The node URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
}

fn handle(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a handle")
}

/// Copies bytes, a few at a time, at this rate.
fn drip(mut from: UnixStream, mut to: UnixStream, bytes_per_second: u32) {
    let mut buffer = [0; 1024];
    let mut due = Instant::now();
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let span = Duration::from_secs(1) * read as u32 / bytes_per_second;
        due = due.max(Instant::now() - Duration::from_millis(5)) + span;
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Copies bytes, each delayed by `delay` from when it was read: the delay does
/// not limit the throughput.
fn copy(mut from: UnixStream, mut to: UnixStream, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if sender
            .send((Instant::now() + delay, buffer[..read].to_vec()))
            .is_err()
        {
            return;
        }
    }
}
