//! The messages between `exec` and its helpers, over a pair of sockets.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ringlock::proto::time::Instant;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// One message; each has the same length on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// To the supervisor: the lock is held, with this fence. The standard input
    /// of the command is sent with it.
    Granted(u64),
    /// To the supervisor: the lease is valid until this instant.
    Until(Instant),
    /// To the supervisor: pass this signal on.
    Signal(i32),
    /// To the supervisor: end the command, with this signal first.
    End(i32),
    /// From the supervisor: the process id of the command.
    Started(i32),
    /// From the supervisor, or from the process that becomes the command: it
    /// could not be run because of this system error.
    Unstarted(i32),
    /// From the supervisor: the lease lapsed, and it ends the command.
    Lapsed,
    /// From the supervisor: the command ended with this code.
    Exited(i32),
    /// From the supervisor: this signal killed the command.
    Killed(i32),
}

const LENGTH: usize = 9;

impl Frame {
    fn encode(self) -> [u8; LENGTH] {
        let small = |number: i32| i64::from(number).to_be_bytes();
        let (tag, value) = match self {
            Self::Granted(fence) => (b'G', fence.to_be_bytes()),
            Self::Until(until) => (b'U', until.as_nanos().to_be_bytes()),
            Self::Signal(signal) => (b'S', small(signal)),
            Self::End(signal) => (b'E', small(signal)),
            Self::Started(pid) => (b'P', small(pid)),
            Self::Unstarted(error) => (b'F', small(error)),
            Self::Lapsed => (b'L', small(0)),
            Self::Exited(code) => (b'X', small(code)),
            Self::Killed(signal) => (b'K', small(signal)),
        };
        let mut bytes = [tag; LENGTH];
        bytes[1..].copy_from_slice(&value);
        bytes
    }

    fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let [tag, value @ ..] = bytes;
        let small = || i32::try_from(i64::from_be_bytes(value)).ok();
        Some(match tag {
            b'G' => Self::Granted(u64::from_be_bytes(value)),
            b'U' => Self::Until(Instant::from_nanos(u64::from_be_bytes(value))),
            b'S' => Self::Signal(small()?),
            b'E' => Self::End(small()?),
            b'P' => Self::Started(small()?),
            b'F' => Self::Unstarted(small()?),
            b'L' => Self::Lapsed,
            b'X' => Self::Exited(small()?),
            b'K' => Self::Killed(small()?),
            _ => return None,
        })
    }

    pub(super) fn write(self, socket: &mut UnixStream) -> std::io::Result<()> {
        socket.write_all(&self.encode())
    }

    /// The next frame; none at the end of the stream, or if another program
    /// writes to it.
    pub(super) fn read(socket: &mut UnixStream) -> Option<Self> {
        let mut bytes = [0; LENGTH];
        socket.read_exact(&mut bytes).ok()?;
        Self::decode(bytes)
    }
}

/// The end of the pair that this process was started with, as its standard
/// input. A command does not inherit it.
pub(super) fn own_end() -> std::io::Result<UnixStream> {
    let socket = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    Ok(UnixStream::from(socket))
}

/// Sends `frame` together with an open file.
pub(super) fn hand_over(socket: &UnixStream, frame: Frame, file: impl AsFd) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    beside.push(SendAncillaryMessage::ScmRights(&files));
    let bytes = frame.encode();
    let sent = sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut beside,
        SendFlags::empty(),
    )?;
    match sent == LENGTH {
        true => Ok(()),
        false => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

/// Receives what [`hand_over`] sent; none if the other end is gone.
pub(super) fn take_over(socket: &UnixStream) -> std::io::Result<Option<(Frame, OwnedFd)>> {
    let mut bytes = [0; LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut parts, &mut beside, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let files = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.flatten().last();
    let (LENGTH, Some(file), Some(frame)) = (received.bytes, file, Frame::decode(bytes)) else {
        return Ok(None);
    };
    fcntl_setfd(&file, FdFlags::CLOEXEC)?;
    Ok(Some((frame, file)))
}

/// How many frames wait for their reader at most; beyond that the socket fills,
/// and the sender drops further frames.
const MOST_FRAMES: usize = 16;

/// The frames that arrive on `socket`, as a queue that ends when the other
/// process is gone. After this call, writing to the socket does not block.
pub(super) fn queue(socket: &UnixStream) -> std::io::Result<mpsc::Receiver<Frame>> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket.try_clone()?)?;
    let (have_read, frames) = mpsc::channel(MOST_FRAMES);
    tokio::spawn(async move {
        let mut bytes = [0; LENGTH];
        while socket.read_exact(&mut bytes).await.is_ok() {
            let Some(frame) = Frame::decode(bytes) else {
                break;
            };
            if have_read.send(frame).await.is_err() {
                break;
            }
        }
    });
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        for frame in [
            Frame::Granted(u64::MAX),
            Frame::Until(Instant::MAX),
            Frame::Signal(15),
            Frame::End(10),
            Frame::Started(i32::MAX),
            Frame::Unstarted(2),
            Frame::Lapsed,
            Frame::Exited(255),
            Frame::Killed(9),
        ] {
            frame.write(&mut here).unwrap();
            assert_eq!(Frame::read(&mut there), Some(frame));
        }
        here.write_all(b"another program").unwrap();
        assert_eq!(Frame::read(&mut there), None);
        drop(here);
        assert_eq!(Frame::read(&mut there), None);
    }

    #[test]
    fn a_file_is_handed_over() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        hand_over(&here, Frame::Granted(7), &writer).unwrap();
        drop(writer);
        let (frame, file) = take_over(&there).unwrap().unwrap();
        assert_eq!(frame, Frame::Granted(7));
        std::fs::File::from(file).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(here);
        assert!(take_over(&there).unwrap().is_none());
    }
}
