//! A byte stream to a server, over any transport.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::clock;
use crate::config::TlsConfig;
use crate::node::redis::connection::address::Place;
use crate::node::redis::connection::attempt::{Attempt, staggered};
use crate::proto::node::message::NodeErrorKind;

/// How long a host's addresses are tried before they are looked up again, so
/// that a server that comes back at another address is found.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(3);

/// The most addresses of a host that are tried.
const MAX_ADDRESSES: usize = 16;

/// An open stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Opens a stream to `place`, with these certificates if it uses any.
    pub(crate) async fn open(
        place: &Place,
        tls: &TlsConfig,
        attempt: &Attempt,
    ) -> io::Result<Self> {
        #[cfg(not(feature = "tls"))]
        let _ = tls;
        match place {
            Place::Tcp { host, port } => Ok(Self::Tcp(open_tcp(host, *port, attempt).await?)),
            Place::Unix(path) => {
                attempt.comes_to("the server accepts no connection");
                Ok(Self::Unix(UnixStream::connect(path).await?))
            }
            #[cfg(feature = "tls")]
            Place::Tls { host, port } => {
                let connector = crate::node::redis::connection::tls::connector(tls)?;
                let name = rustls_pki_types::ServerName::try_from(host.clone())
                    .map_err(io::Error::other)?;
                let stream = open_tcp(host, *port, attempt).await?;
                attempt.comes_to(
                    "the server does not answer the TLS handshake; if it speaks no TLS on that port, write redis://",
                );
                let stream = connector.connect(name, stream).await?;
                Ok(Self::Tls(Box::new(stream)))
            }
            #[cfg(not(feature = "tls"))]
            Place::Tls { .. } => Err(io::Error::other("needs the feature `tls`")),
            Place::Service(_) => Err(io::Error::other("its primary is not known")),
        }
    }

    /// Splits the stream into a reading end and a writing end.
    pub(crate) fn into_ends(self) -> (Receiver, Sender) {
        let (receiver, socket) = match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Receiver::Tcp(reader), Socket::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Receiver::Unix(reader), Socket::Unix(writer))
            }
            #[cfg(feature = "tls")]
            stream @ Self::Tls(_) => {
                let (reader, writer) = tokio::io::split(stream);
                return (Receiver::Tls(reader), Sender::Tls(writer));
            }
        };
        (receiver, Sender::Socket(Arc::new(socket)))
    }
}

/// What can be done about `error`, where that is known: as the tail of a
/// sentence about it.
pub(crate) fn remedy(error: &io::Error) -> Option<(NodeErrorKind, &'static str)> {
    #[cfg(feature = "tls")]
    return crate::node::redis::connection::tls::remedy(error);
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        None
    }
}

/// Tries the addresses of a host, as long as the attempt lasts.
async fn open_tcp(host: &str, port: u16, attempt: &Attempt) -> io::Result<TcpStream> {
    loop {
        let until = clock::now() + LOOK_UP_AGAIN;
        let opened = clock::within(Some(until), async {
            attempt.comes_to("the lookup of its host takes too long");
            let found = tokio::net::lookup_host((host, port)).await?;
            attempt.comes_to("the server accepts no connection");
            open_any(by_turns(found)).await
        });
        if let Some(opened) = opened.await {
            let stream = opened?;
            // A lock is one small packet each way: never wait for more.
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
    }
}

/// Connects to one of these addresses.
async fn open_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let ways = addresses.into_iter().map(async |address| {
        let opened = TcpStream::connect(address).await;
        opened.map_err(|error| (address, error))
    });
    let mut failures = match staggered(ways.collect()).await {
        Ok(stream) => return Ok(stream),
        Err(failures) => failures,
    };
    match failures.len() {
        0 => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the host has no address",
        )),
        1 => Err(failures.remove(0).1),
        _ => {
            let reported: Vec<String> = failures
                .iter()
                .map(|(address, error)| format!("{address}: {error}"))
                .collect();
            Err(io::Error::new(failures[0].1.kind(), reported.join("; ")))
        }
    }
}

/// The resolver's first address, then one of each protocol version alternately
/// (RFC 8305, section 4): where one version does not work, the other comes
/// second.
fn by_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (own, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let (mut own, mut others) = (own.into_iter(), others.into_iter());
    let mut turns = Vec::new();
    loop {
        let before = turns.len();
        turns.extend(own.next());
        turns.extend(others.next());
        if turns.len() == before {
            return turns;
        }
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(context))
    }
}

/// A writing end for any caller that does not wait.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Socket {
    /// Writes what fits at once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => writer.try_write(bytes),
            Self::Unix(writer) => writer.try_write(bytes),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(writer) => writer.writable().await,
            Self::Unix(writer) => writer.writable().await,
        }
    }
}

/// The reading end, owned by one task.
#[derive(Debug)]
pub(crate) enum Receiver {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::ReadHalf<Stream>),
}

impl Receiver {
    /// Reads what has arrived, up to the spare room of `into`; 0 at the end.
    /// Cancel safe.
    pub(crate) async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(reader) => reader.read_buf(into).await,
            Self::Unix(reader) => reader.read_buf(into).await,
            #[cfg(feature = "tls")]
            Self::Tls(reader) => reader.read_buf(into).await,
        }
    }
}

/// The writing end for writes that may wait, owned by one task.
#[derive(Debug)]
pub(crate) enum Sender {
    Socket(Arc<Socket>),
    #[cfg(feature = "tls")]
    Tls(tokio::io::WriteHalf<Stream>),
}

impl Sender {
    /// The socket that callers may write to; only its task writes to a TLS
    /// stream.
    pub(crate) fn socket(&self) -> Option<Arc<Socket>> {
        match self {
            Self::Socket(socket) => Some(Arc::clone(socket)),
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }

    /// Writes some of `bytes`. Cancel safe.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => loop {
                socket.writable().await?;
                match socket.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return written,
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(writer) => tokio::io::AsyncWriteExt::write(writer, bytes).await,
        }
    }

    /// Sends what the stream itself has buffered. Cancel safe.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(writer) => tokio::io::AsyncWriteExt::flush(writer).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address whose connections are never accepted: its backlog is full.
    async fn silent() -> (tokio::net::TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        loop {
            let connecting = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(300), connecting).await {
                Ok(stream) => held.push(stream.unwrap()),
                Err(_) => return (listener, held, address),
            }
        }
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hide_the_next() {
        let (_listener, _held, silent) = silent().await;
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (live, gone) = (server.local_addr().unwrap(), "127.0.0.3:1".parse().unwrap());
        for addresses in [
            vec![silent, live],
            vec![silent, gone, live],
            vec![live, silent],
        ] {
            let opened = tokio::time::timeout(LOOK_UP_AGAIN, open_any(addresses.clone())).await;
            let stream = opened.unwrap_or_else(|_| panic!("{addresses:?}: nothing"));
            assert_eq!(stream.unwrap().peer_addr().unwrap(), live);
        }
        let refused = open_any(vec![gone, "127.0.0.4:1".parse().unwrap()]).await;
        let reported = refused.unwrap_err();
        assert_eq!(reported.kind(), io::ErrorKind::ConnectionRefused);
        let reported = reported.to_string();
        assert!(
            reported.contains("127.0.0.3:1") && reported.contains("127.0.0.4:1"),
            "{reported}"
        );
    }

    #[test]
    fn protocol_versions_take_turns() {
        let addresses = |all: &[&str]| -> Vec<SocketAddr> {
            all.iter().map(|text| text.parse().unwrap()).collect()
        };
        let found = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        let turns = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(by_turns(found.into_iter()), turns);
        assert_eq!(by_turns(std::iter::empty()), []);
    }
}
