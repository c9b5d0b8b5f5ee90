//! Pairs of acquire and release, for counting instructions: `scripts/instructions.sh`
//! runs it under callgrind.
//!
//! ```sh
//! cargo bench --bench cost -- --tasks 16 --pairs 1000
//! ```

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]

use ringlock_bench::{Fault, arguments, cost};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let number = |name, measured, quick| arguments::number_or(name, measured, quick) as usize;
    let nodes = number("--nodes", 1.0, 1.0);
    let replicas = number("--replicas", 1.0, 1.0);
    let tasks = number("--tasks", 256.0, 4.0);
    let pairs = number("--pairs", 1000.0, 5.0);
    let (_servers, router) = cost::start(nodes, replicas).await?;
    cost::pairs(&router, tasks, pairs).await?;
    println!("{} pairs of {tasks} tasks", tasks * pairs);
    Ok(())
}
