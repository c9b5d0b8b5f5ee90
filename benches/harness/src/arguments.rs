//! The command line of the benches that have few options, and their exit code.

use std::process::ExitCode;

/// Whether cargo runs the bench for its figures: as with criterion, it passes
/// `--bench`. Otherwise, as in `cargo test --benches`, everything is short.
pub fn is_measurement() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The number that follows the option `name`; a wrong one ends the program.
fn number(name: &str) -> Option<f64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    let number = arguments.next().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| {
        eprintln!("error: {name} takes a number");
        std::process::exit(2)
    }))
}

/// The number that follows the option `name`, or else this one: of a measurement, or
/// of a quick run.
pub fn number_or(name: &str, measured: f64, quick: f64) -> f64 {
    let default = || if is_measurement() { measured } else { quick };
    number(name).unwrap_or_else(default)
}

/// The seed of a random run: that of the environment variable `RINGLOCK_SEED`,
/// or else a fresh one. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("RINGLOCK_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("error: RINGLOCK_SEED is a number");
            std::process::exit(2)
        })
    });
    println!("RINGLOCK_SEED={seed}");
    seed
}

/// The exit code of a bench whose figures have bounds.
pub fn verdict(is_good: bool) -> ExitCode {
    match is_good {
        true => ExitCode::SUCCESS,
        false => {
            println!("NOT GOOD: compare the figures above with the head of the program");
            ExitCode::FAILURE
        }
    }
}
