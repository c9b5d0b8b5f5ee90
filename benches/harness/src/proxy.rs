//! Proxies in front of a server: they delay what passes, or limit its rate.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::Fault;

/// The most chunks in flight in one direction; beyond that a sender waits.
const IN_FLIGHT: usize = 4096;

/// Listens on its own port in front of one server. Its threads end with their
/// connections; the listening thread ends with the process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug)]
enum Passage {
    Delay(Duration),
    BytesPerSecond(u32),
}

impl Proxy {
    /// Starts a proxy in front of `target` (`host:port`) that adds `delay` in
    /// each direction.
    pub fn delaying(target: &str, delay: Duration) -> Result<Self, Fault> {
        Self::start(target, Passage::Delay(delay), Passage::Delay(delay))
    }

    /// The same, with `delay` on the way back alone.
    pub fn delaying_replies(target: &str, delay: Duration) -> Result<Self, Fault> {
        let at_once = Passage::Delay(Duration::ZERO);
        Self::start(target, at_once, Passage::Delay(delay))
    }

    /// Starts a proxy that passes at most this many bytes per second to the
    /// server.
    pub fn throttled(target: &str, bytes_per_second: u32) -> Result<Self, Fault> {
        let at_once = Passage::Delay(Duration::ZERO);
        Self::start(target, Passage::BytesPerSecond(bytes_per_second), at_once)
    }

    fn start(target: &str, to_server: Passage, to_client: Passage) -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let target = target.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client whose server is gone sees its connection closed.
                let _ = serve(client, &target, to_server, to_client);
            }
        });
        Ok(Self { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

fn serve(
    client: TcpStream,
    target: &str,
    to_server: Passage,
    to_client: Passage,
) -> std::io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (server_end, client_end) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || to_server.copy(client, server_end));
    std::thread::spawn(move || to_client.copy(server, client_end));
    Ok(())
}

impl Passage {
    fn copy(self, from: TcpStream, to: TcpStream) {
        match self {
            Self::Delay(delay) => copy_delayed(from, to, delay),
            Self::BytesPerSecond(rate) => copy_throttled(from, to, rate),
        }
    }
}

/// Copies bytes and holds each back for `delay` from when it was read: a delay
/// does not limit the throughput.
fn copy_delayed(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let due = Instant::now() + delay;
        if sender.send((due, buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

/// Copies bytes, a few at a time, at this rate.
fn copy_throttled(mut from: TcpStream, mut to: TcpStream, bytes_per_second: u32) {
    /// How much of an idle time is made up for by a faster start.
    const BURST: Duration = Duration::from_millis(5);

    let mut buffer = [0; 1024];
    let mut due = Instant::now();
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let span = Duration::from_secs(1) * read as u32 / bytes_per_second;
        due = due.max(Instant::now() - BURST) + span;
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
