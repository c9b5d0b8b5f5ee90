//! A byte stream to a server, over whatever carries it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::address::{Address, Place};

/// An open stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Opens a stream to `address`.
    pub(super) async fn open(address: &Address) -> io::Result<Self> {
        match &address.place {
            Place::Tcp { host, port } => Ok(Self::Tcp(tcp(host, *port).await?)),
            Place::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            #[cfg(feature = "tls")]
            Place::Tls { host, port } => {
                let connector = super::tls::connector(&address.tls)?;
                let name = rustls_pki_types::ServerName::try_from(host.clone())
                    .map_err(io::Error::other)?;
                let stream = connector.connect(name, tcp(host, *port).await?).await?;
                Ok(Self::Tls(Box::new(stream)))
            }
            #[cfg(not(feature = "tls"))]
            Place::Tls { .. } => Err(io::Error::other("needs the feature `tls`")),
        }
    }

    /// The stream as an end to read from and an end to write to.
    pub(super) fn into_ends(self) -> (Receiver, Sender) {
        let socket = match self {
            Self::Tcp(stream) => Socket::Tcp(stream),
            Self::Unix(stream) => Socket::Unix(stream),
            #[cfg(feature = "tls")]
            stream @ Self::Tls(_) => {
                let (reader, writer) = tokio::io::split(stream);
                return (Receiver::Tls(reader), Sender::Tls(writer));
            }
        };
        let socket = Arc::new(socket);
        (
            Receiver::Socket(Arc::clone(&socket)),
            Sender::Socket(socket),
        )
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // A lock is one small packet there and one back: never wait for more.
    stream.set_nodelay(true)?;
    Ok(stream)
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

/// A stream that anybody may write to, without waiting.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! socket {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($inner) => $call,
            Socket::Unix($inner) => $call,
        }
    };
}

impl Socket {
    /// Writes what fits at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        socket!(self, stream => stream.try_write(bytes))
    }

    fn try_read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        socket!(self, stream => stream.try_read_buf(into))
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket!(self, stream => stream.poll_read_ready(context))
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket!(self, stream => stream.poll_write_ready(context))
    }
}

/// The end to read from; one task's own.
#[derive(Debug)]
pub(super) enum Receiver {
    Socket(Arc<Socket>),
    #[cfg(feature = "tls")]
    Tls(tokio::io::ReadHalf<Stream>),
}

impl Receiver {
    /// Reads what has come, up to the spare room of `into`; 0 at the end.
    /// Cancel safe.
    pub(super) async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => loop {
                poll_fn(|context| socket.poll_read_ready(context)).await?;
                match socket.try_read(into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(reader) => tokio::io::AsyncReadExt::read_buf(reader, into).await,
        }
    }
}

/// The end to write to, for when that takes waiting; one task's own.
#[derive(Debug)]
pub(super) enum Sender {
    Socket(Arc<Socket>),
    #[cfg(feature = "tls")]
    Tls(tokio::io::WriteHalf<Stream>),
}

impl Sender {
    /// What others may write to; a TLS stream is its task's alone.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        match self {
            Self::Socket(socket) => Some(Arc::clone(socket)),
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }

    /// Writes some of `bytes`. Cancel safe.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => loop {
                poll_fn(|context| socket.poll_write_ready(context)).await?;
                match socket.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return written,
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(writer) => tokio::io::AsyncWriteExt::write(writer, bytes).await,
        }
    }

    /// Sends off what the stream itself has held back. Cancel safe.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(writer) => tokio::io::AsyncWriteExt::flush(writer).await,
        }
    }
}
