//! A proxy that holds back what a server answers.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Listens on a unix socket of its own and delays every byte of the answers.
/// Ends with its process.
#[derive(Debug)]
pub struct Proxy {
    directory: TempDir,
}

impl Proxy {
    /// A proxy before the server at `target`.
    pub fn start(target: PathBuf, delay: Duration) -> Self {
        let proxy = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        let listener = UnixListener::bind(proxy.socket()).expect("a socket");
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                serve(client, &target, delay);
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

fn serve(client: UnixStream, target: &Path, delay: Duration) {
    let server = UnixStream::connect(target).expect("the server");
    let (to_client, to_server) = (
        client.try_clone().expect("a handle"),
        server.try_clone().expect("a handle"),
    );
    std::thread::spawn(move || copy(client, to_server, Duration::ZERO));
    std::thread::spawn(move || copy(server, to_client, delay));
}

/// Copies bytes, each held back for `delay` from when it was read: a delay
/// limits no throughput.
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
