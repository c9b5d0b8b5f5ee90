//! The most that a server can do with ringlock's commands: raw pipelines on
//! blocking sockets in one thread, without any lock logic.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TTL_MS;
use crate::Fault;
use crate::checker::Faults;
use crate::keys::{KeySpace, Lane};
use crate::load::{Boxed, Contender, Load, Sample, Turn};

/// Keys per batch, as in ringlock's largest batch.
const BATCH: usize = 64;

/// Per node: enough that the server always has work, few enough to stay in its cache.
const SOCKETS: usize = 8;

/// ringlock's own release script: one MGET, one DEL of the entries that match.
const RELEASE: &str = include_str!("../../../../src/node/redis/codec/lua/release.lua");

/// A mark that the script repeats in its reply.
const MARK: &str = "1234567";

/// As long as the id of a view.
const ID: &str = "1:0123456789abcdef0123456789abcdef";

/// The servers at `addresses` (`host:port`).
#[derive(Debug)]
pub(crate) struct Ceiling {
    addresses: Vec<String>,
    keys: Arc<KeySpace>,
    /// Follows the random half of a token, as ringlock's label does.
    label: String,
    release: String,
    id: String,
    counters: String,
}

impl Ceiling {
    /// No other contender may use `keys`: their names are the lock names.
    pub(crate) fn connect(
        addresses: Vec<String>,
        namespace: &str,
        keys: Arc<KeySpace>,
    ) -> Result<Self, Fault> {
        let id = format!("{namespace}!id");
        let mut release = String::new();
        for address in &addresses {
            let client = redis::Client::open(format!("redis://{address}"))?;
            let mut connection = client.get_connection()?;
            redis::cmd("SET").arg(&id).arg(ID).exec(&mut connection)?;
            release = redis::cmd("SCRIPT")
                .arg("LOAD")
                .arg(RELEASE)
                .query(&mut connection)?;
        }
        Ok(Self {
            addresses,
            keys,
            label: format!(":localhost:{}", std::process::id()),
            release,
            id,
            counters: format!("{namespace}!c"),
        })
    }

    fn run(&self, load: &Load) -> Result<Turn, Fault> {
        let mut sockets = Vec::new();
        let of = SOCKETS * self.addresses.len();
        let addresses = self.addresses.iter().cycle().take(of);
        for (index, address) in addresses.enumerate() {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            sockets.push(Socket {
                stream,
                lane: Lane { index, of },
                next: 0,
                batch: Vec::new(),
                is_acquiring: false,
                sent: Instant::now(),
                acquire: Duration::ZERO,
                out: Vec::new(),
                reply: Vec::new(),
            });
        }
        let mut turn = Turn::new(load);
        let begin = Instant::now();
        for socket in &mut sockets {
            self.acquire(socket)?;
        }
        // Until each socket has released what it acquired.
        let mut open = of;
        while open > 0 {
            for socket in sockets.iter_mut().filter(|socket| !socket.batch.is_empty()) {
                socket.read(&self.expected(socket))?;
                if socket.is_acquiring {
                    socket.acquire = socket.sent.elapsed();
                    self.give_back(socket)?;
                    continue;
                }
                let done = begin.elapsed();
                let acquire = socket.acquire;
                let pairs = std::iter::repeat_n(Sample { done, acquire }, socket.batch.len());
                turn.samples.extend(pairs);
                socket.batch.clear();
                if done < load.warm_up + load.span {
                    self.acquire(socket)?;
                } else {
                    open -= 1;
                }
            }
        }
        Ok(turn)
    }

    /// Sends an acquire of a batch of keys.
    fn acquire(&self, socket: &mut Socket) -> Result<(), Fault> {
        let Lane { index, of } = socket.lane;
        let own = (self.keys.len() / of).max(1);
        let ttl = TTL_MS.to_string();
        // Distinct keys of its own, spread over the whole key space.
        for _ in 0..BATCH.min(own) {
            let step = socket.next * 7919 % own;
            socket.next += 1;
            let key = (index + of * step).min(self.keys.len() - 1);
            if socket.batch.iter().any(|(known, _)| *known == key) {
                continue;
            }
            let token = format!("{}{}", super::token(), self.label);
            let parts = ["SET", self.keys.get(key), &token, "NX", "GET", "PX", &ttl];
            command(&mut socket.out, &parts);
            socket.batch.push((key, token));
        }
        let count = socket.batch.len().to_string();
        command(
            &mut socket.out,
            &["HINCRBY", &self.counters, "1:0:0", &count],
        );
        command(&mut socket.out, &["GET", &self.id]);
        socket.is_acquiring = true;
        socket.send()
    }

    fn give_back(&self, socket: &mut Socket) -> Result<(), Fault> {
        let count = socket.batch.len().to_string();
        let mut parts = vec!["EVALSHA", &self.release, &count];
        parts.extend(socket.batch.iter().map(|(key, _)| self.keys.get(*key)));
        parts.extend(socket.batch.iter().map(|(_, token)| token.as_str()));
        parts.push(MARK);
        command(&mut socket.out, &parts);
        socket.is_acquiring = false;
        socket.send()
    }

    /// How the reply begins and how it ends if every lock was free and every
    /// release in time.
    fn expected(&self, socket: &Socket) -> (String, String) {
        let count = socket.batch.len();
        if !socket.is_acquiring {
            return (format!("${}\r\n", MARK.len()), format!("{MARK}\r\n"));
        }
        let free = "$-1\r\n".repeat(count);
        (format!("{free}:"), format!("\r\n${}\r\n{ID}\r\n", ID.len()))
    }
}

impl Contender for Ceiling {
    fn turn<'a>(&'a self, load: &'a Load) -> Boxed<'a, Result<Turn, Fault>> {
        Box::pin(async move {
            std::thread::scope(|scope| scope.spawn(|| self.run(load)).join())
                .map_err(|_| "the ceiling's thread panicked")?
        })
    }

    fn faults(&self) -> Faults {
        // A reply that is not the expected one ends the run.
        Faults::default()
    }
}

struct Socket {
    stream: TcpStream,
    lane: Lane,
    next: usize,
    /// The keys that it holds or is about to acquire, with their tokens.
    batch: Vec<(usize, String)>,
    is_acquiring: bool,
    sent: Instant,
    acquire: Duration,
    out: Vec<u8>,
    reply: Vec<u8>,
}

impl Socket {
    fn send(&mut self) -> Result<(), Fault> {
        self.sent = Instant::now();
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads the whole reply, which must be the expected one.
    fn read(&mut self, (head, tail): &(String, String)) -> Result<(), Fault> {
        self.reply.clear();
        let mut chunk = [0; 8 * 1024];
        loop {
            let read = self.stream.read(&mut chunk)?;
            self.reply.extend_from_slice(&chunk[..read]);
            let compared = self.reply.len().min(head.len());
            if read == 0 || self.reply[..compared] != head.as_bytes()[..compared] {
                let reply = String::from_utf8_lossy(&self.reply);
                return Err(format!("not the reply of a free lock: {reply}").into());
            }
            if self.reply.len() >= head.len() + tail.len() && self.reply.ends_with(tail.as_bytes())
            {
                return Ok(());
            }
        }
    }
}

fn command(out: &mut Vec<u8>, parts: &[&str]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n{part}\r\n", part.len());
    }
}
