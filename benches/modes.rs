//! Sharded and quorum mode, compared with each other and with peers.
//!
//! ```sh
//! cargo bench --features cli --bench modes               # every goal; some minutes
//! cargo bench --features cli --bench modes -- --quick    # under a minute
//! cargo bench --features cli --bench modes -- --help
//! ```
//!
//! The code is that of the program's `ringlock bench`; here the crate `rslock`
//! takes part too. Without `--bench`, as in `cargo test --benches`, it runs
//! every scene once and briefly.

#[path = "harness/src/lib.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "its unit tests are the program's; a bench without the harness has none"
)]
mod bench;
#[path = "modes/rslock.rs"]
mod rslock_peer;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    /// Passed by cargo for a measurement.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(flatten)]
    options: bench::Options,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(bench::worker::ARGUMENT) {
        let done = bench::worker::run().map(|()| ExitCode::SUCCESS);
        return done.unwrap_or_else(failed);
    }
    let cli = Cli::parse();
    let effort = match (cli.bench, cli.options.quick) {
        (false, _) => bench::Effort::Test,
        (true, true) => bench::Effort::Quick,
        (true, false) => bench::Effort::Full,
    };
    let done = bench::run(&cli.options, effort, &[rslock_peer::PEER], false);
    done.map_or_else(failed, bench::Outcome::exit_code)
}

/// Reports why a run could not be completed.
#[expect(clippy::needless_pass_by_value, reason = "it ends a chain of results")]
#[expect(clippy::print_stderr, reason = "a program: it reports")]
fn failed(fault: bench::Fault) -> ExitCode {
    eprintln!("error: {fault}");
    ExitCode::from(3)
}
