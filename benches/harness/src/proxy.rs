//! A proxy that delays every byte, in both directions.

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
pub(crate) struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    /// Starts a proxy in front of `target` (`host:port`) that adds `delay` in
    /// each direction.
    pub(crate) fn start(target: &str, delay: Duration) -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let target = target.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client whose server is gone sees its connection closed.
                let _ = serve(client, &target, delay);
            }
        });
        Ok(Self { address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

fn serve(client: TcpStream, target: &str, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (to_server, to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || copy(client, to_server, delay));
    std::thread::spawn(move || copy(server, to_client, delay));
    Ok(())
}

/// Copies bytes and holds each back for `delay` from when it was read: a delay
/// does not limit the throughput.
fn copy(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
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
