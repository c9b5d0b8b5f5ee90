//! A byte stream to a server, over whatever carries it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::address::Place;
use crate::config::TlsConfig;
use crate::proto::wire::NodeErrorKind;

/// How long a TLS handshake may take, once the server has accepted the
/// connection: less than connecting may in all, so that it is told of.
#[cfg(feature = "tls")]
const HANDSHAKE_LIMIT: std::time::Duration = std::time::Duration::from_millis(900);

/// An open stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Opens a stream to `place`, with these certificates where that takes any.
    pub(super) async fn open(place: &Place, tls: &TlsConfig) -> io::Result<Self> {
        #[cfg(not(feature = "tls"))]
        let _ = tls;
        match place {
            Place::Tcp { host, port } => Ok(Self::Tcp(open_tcp(host, *port).await?)),
            Place::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            #[cfg(feature = "tls")]
            Place::Tls { host, port } => {
                let connector = super::tls::connector(tls)?;
                let name = rustls_pki_types::ServerName::try_from(host.clone())
                    .map_err(io::Error::other)?;
                let shaking = connector.connect(name, open_tcp(host, *port).await?);
                let stream = tokio::time::timeout(HANDSHAKE_LIMIT, shaking).await;
                let stream = stream.map_err(|_| io::Error::other(
                    "it does not answer as TLS does: if it speaks none on that port, write redis://",
                ))??;
                Ok(Self::Tls(Box::new(stream)))
            }
            #[cfg(not(feature = "tls"))]
            Place::Tls { .. } => Err(io::Error::other("needs the feature `tls`")),
            Place::Service(_) => Err(io::Error::other("its primary is not known")),
        }
    }

    /// The stream as an end to read from and an end to write to.
    pub(super) fn into_ends(self) -> (Receiver, Sender) {
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
pub(super) fn remedy(error: &io::Error) -> Option<(NodeErrorKind, &'static str)> {
    #[cfg(feature = "tls")]
    return super::tls::remedy(error);
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        None
    }
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
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

/// An end to write to that anybody may use who does not wait.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Socket {
    /// Writes what fits at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
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

/// The end to read from; one task's own.
#[derive(Debug)]
pub(super) enum Receiver {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::ReadHalf<Stream>),
}

impl Receiver {
    /// Reads what has come, up to the spare room of `into`; 0 at the end.
    /// Cancel safe.
    pub(super) async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(reader) => reader.read_buf(into).await,
            Self::Unix(reader) => reader.read_buf(into).await,
            #[cfg(feature = "tls")]
            Self::Tls(reader) => reader.read_buf(into).await,
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

    /// Sends off what the stream itself has held back. Cancel safe.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(writer) => tokio::io::AsyncWriteExt::flush(writer).await,
        }
    }
}
