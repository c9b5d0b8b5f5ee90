//! A file that several writers share, safe even from a writer that resumes too
//! late: the file checks the fence of every write.
//!
//! ```sh
//! cargo run --example fenced_writer
//! ```
//!
//! A database does the same with a column:
//! `UPDATE account SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2`.
//! A writer that changed no row knows that it came too late.

#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]
#![allow(clippy::unwrap_used, reason = "what is shown to fail must fail")]

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ringlock::{Fence, Router};
use rustix::fs::{FlockOperation, flock};

/// A file whose first line is the highest fence that has written it.
struct FencedFile {
    path: PathBuf,
}

impl FencedFile {
    /// Replaces the content, unless a newer holder of the lock has written.
    fn write(&self, fence: Fence, content: &str) -> io::Result<()> {
        // Reading the fence and writing must be one step: a lock of the
        // operating system makes it one.
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&self.path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let newest = self.fence()?;
        if fence.get() < newest {
            let late = format!("fence {fence} is older than {newest}: a newer holder has written");
            return Err(io::Error::other(late));
        }
        fs::write(&self.path, format!("{fence}\n{content}\n"))
    }

    fn fence(&self) -> io::Result<u64> {
        let text = fs::read_to_string(&self.path)?;
        let first = text.lines().next().unwrap_or("0");
        first.parse().map_err(io::Error::other)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = FencedFile {
        path: directory.path().join("ledger"),
    };
    let router = Router::in_memory(5).await?;

    // The usual way: the lease is kept alive while the work lasts.
    router
        .with("ledger", async |lease| {
            file.write(lease.fence(), "opening balance")
        })
        .await??;
    println!("first writer: written under fence {}", file.fence()?);

    // A writer that checks its lease, and is then stopped for longer than the
    // lease lasts: by the scheduler, a collector of garbage, a suspended laptop.
    let slow = router
        .acquire("ledger")
        .ttl(Duration::from_millis(50))
        .await?;
    assert!(!slow.remaining().is_zero());
    std::thread::sleep(Duration::from_millis(100));

    // In between another writer got the lock and wrote.
    let quick = router.acquire("ledger").await?;
    file.write(quick.fence(), "balance after payment")?;
    println!("quick writer: written under fence {}", file.fence()?);
    quick.release().await?;

    // The late write would have undone the payment. The file refuses it.
    let refused = file
        .write(slow.fence(), "balance before payment")
        .unwrap_err();
    println!("slow writer:  {refused}");
    assert!(fs::read_to_string(&file.path)?.contains("after payment"));
    Ok(())
}
