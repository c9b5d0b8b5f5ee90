//! The guarded resource: it accepts a write whose fence is no lower than any
//! that it has seen, and refuses every other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::history::{Action, Ask};
use crate::log::Log;

/// The path of its socket.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("register.sock")
}

/// Serves as long as its runtime runs.
pub(crate) fn start(directory: &Path, log: Arc<Log>) {
    let listener = UnixListener::bind(socket(directory)).expect("a socket");
    let highest = Arc::new(Mutex::new(BTreeMap::new()));
    tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            tokio::spawn(serve(client, Arc::clone(&highest), Arc::clone(&log)));
        }
    });
}

async fn serve(client: UnixStream, highest: Arc<Mutex<BTreeMap<String, u64>>>, log: Arc<Log>) {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    // A killed writer may not have sent a complete line.
    if client.read_line(&mut line).await.is_err() || !line.ends_with('\n') {
        return;
    }
    let (ask, key, fence, believed) = serde_json::from_str(&line).expect("a write");
    let is_taken = take(&highest, &log, ask, key, fence, believed);
    let _ = client.write_all(&[u8::from(is_taken)]).await;
}

/// The record is written before any other write reaches the register.
fn take(
    highest: &Mutex<BTreeMap<String, u64>>,
    log: &Log,
    ask: Ask,
    key: String,
    fence: u64,
    believed: bool,
) -> bool {
    let mut highest = highest.lock();
    let known = highest.entry(key.clone()).or_default();
    let is_taken = fence >= *known;
    *known = fence.max(*known);
    log.write(Action::Offered {
        ask,
        key,
        fence,
        is_taken,
        believed,
    });
    is_taken
}

/// Writes to the register at `socket`; returns whether it was accepted. `None`:
/// the process that runs it is gone.
pub(crate) async fn offer(
    socket: &Path,
    ask: Ask,
    key: &str,
    fence: u64,
    believed: bool,
) -> Option<bool> {
    let mut register = UnixStream::connect(socket).await.ok()?;
    let mut line = serde_json::to_vec(&(ask, key, fence, believed)).expect("plain data");
    line.push(b'\n');
    register.write_all(&line).await.ok()?;
    Some(register.read_u8().await.ok()? == 1)
}
