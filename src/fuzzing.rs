//! The fuzz targets under `fuzz/`. Each is a function of bytes that panics on an
//! error.
//!
//! The module is here because it uses private code. It is compiled only for fuzzing
//! and for the unit tests, which run the same targets over `fuzz/corpus`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target panics where it finds something"
)]

use xxhash_rust::xxh3::xxh3_128;

use crate::config::Config;
use crate::node::redis::fuzzing::Bytes;
use crate::proto::lease::Key;
use crate::proto::membership::view::View;
use crate::proto::node::message::ViewId;
use crate::rebalancer::Plan;

/// A target: its name, which is also that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("config", config),
    ("view", view),
    ("plan", plan),
    ("replies", |bytes| {
        crate::node::redis::fuzzing::replies(&mut Bytes(bytes))
    }),
    ("facts", |bytes| {
        crate::node::redis::fuzzing::facts(&mut Bytes(bytes))
    }),
    ("stored", |bytes| {
        crate::node::redis::fuzzing::stored(&mut Bytes(bytes))
    }),
    ("keys", |bytes| {
        crate::node::redis::fuzzing::keys(&mut Bytes(bytes))
    }),
    ("urls", |bytes| {
        crate::node::redis::fuzzing::urls(&mut Bytes(bytes))
    }),
];

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.expect("a target of this name");
    run(bytes);
}

/// The size of a ring, in points, above which building it only takes longer and
/// tests nothing new.
const MANY_POINTS: u64 = 1 << 14;

/// A configuration: read, checked, refused with a line; never a panic.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<Config>() {
        Ok(config) => {
            let weights = config
                .nodes
                .iter()
                .map(|node| u64::from(node.weight))
                .sum::<u64>();
            if weights.saturating_mul(u64::from(config.ring.vnodes)) < MANY_POINTS
                && let Err(error) = config.check()
            {
                assert!(!error.to_string().is_empty());
            }
            let _ = format!("{config:?}");
        }
        Err(error) => assert!(error.to_string().contains("line "), "{error}"),
    }
}

/// A view's document, as a server may return it: the first byte is the epoch.
fn view(bytes: &[u8]) {
    let Some((&epoch, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let digest = xxh3_128(text.as_bytes());
    let id = ViewId {
        epoch: u32::from(epoch),
        digest,
    };
    let other = ViewId {
        digest: !digest,
        ..id
    };
    assert!(
        View::read(other, text).is_err(),
        "the digest must be the document's"
    );
    if is_large(text) {
        return;
    }
    let view = match View::read(id, text) {
        Ok(view) => view,
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 8192 && !message.chars().any(char::is_control),
                "{message:?}"
            );
            return;
        }
    };
    assert_eq!((view.id(), &**view.document()), (id, text));
    assert!(view.max_ttl() <= view.longest_ttl());
    assert!(
        crate::proto::time::outwait(view.longest_ttl() + view.longest_view_lease())
            > view.max_ttl()
    );
    for key in ["a", "billing/1", "\u{0}"] {
        let key = Key::new(key).expect("a key");
        let placement = view.place(&key);
        assert!(placement.nodes().iter().all(|node| node.get() < view.len()));
    }
    // Writing the view again gives a document that reads the same.
    let nonces = view.nonces();
    let again = match view.next() {
        None => View::stable(id.epoch, view.topology().clone(), &nonces),
        Some(next) => View::joint(
            id.epoch,
            view.topology().clone(),
            next.clone(),
            view.since(),
            &nonces,
        ),
    };
    let again = again.expect("it was in force");
    assert_eq!(
        View::read(again.id(), again.document())
            .expect("ours")
            .topology(),
        view.topology()
    );
}

/// Whether a document asks for more points than are worth building here. The ring's
/// own tests cover the limit itself.
fn is_large(text: &str) -> bool {
    let most = |name: &str| {
        let values = text.split(name).skip(1).map(|rest| {
            let digits = rest.trim_start_matches(|char: char| !char.is_ascii_digit());
            let end = digits.find(|char: char| !char.is_ascii_digit());
            digits[..end.unwrap_or(digits.len())]
                .parse::<u64>()
                .unwrap_or(0)
        });
        values.max().unwrap_or(1)
    };
    most("vnodes").saturating_mul(most("weight")) > MANY_POINTS
}

/// The text of a plan file.
fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if is_large(text) {
        return;
    }
    match Plan::from_json(text) {
        Ok(plan) => {
            let again = Plan::from_json(&plan.to_json()).expect("it was read before");
            assert_eq!(again, plan);
            let _ = (plan.to_string(), plan.duration(), plan.needs());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The minimum number of files in a corpus.
    const SOME: usize = 8;

    /// The number of mutations per target.
    const MUTATIONS: usize = 20_000;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let files =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(
            files.len() >= SOME,
            "{} has {} files",
            folder.display(),
            files.len()
        );
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    #[track_caller]
    fn runs(name: &str, bytes: &[u8]) {
        let run = catch_unwind(AssertUnwindSafe(|| run(name, bytes)));
        assert!(run.is_ok(), "{name} fails on b\"{}\"", bytes.escape_ascii());
    }

    #[test]
    fn every_file_of_a_corpus_runs() {
        for (name, _) in TARGETS {
            corpus(name).iter().for_each(|bytes| runs(name, bytes));
        }
    }

    #[test]
    fn every_corpus_has_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for folder in fs::read_dir(folder).unwrap() {
            let name = folder.unwrap().file_name();
            let is_known = TARGETS.iter().any(|(known, _)| name == **known);
            assert!(is_known, "{name:?} is the corpus of no target");
        }
    }

    #[test]
    fn mutations_of_the_corpus_run() {
        let seed = match std::env::var("RINGLOCK_SEED") {
            Ok(text) => text.parse().expect("RINGLOCK_SEED is a number"),
            Err(_) => rand::random(),
        };
        println!("RINGLOCK_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for (name, _) in TARGETS {
            let corpus = corpus(name);
            for _ in 0..MUTATIONS {
                runs(name, &mutation(&corpus, &mut rng));
            }
        }
    }

    fn mutation(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..5) {
                0 => bytes.insert(at, rng.random()),
                1 if at < bytes.len() => bytes[at] = rng.random(),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => {
                    let other = &corpus[rng.random_range(0..corpus.len())];
                    let from = rng.random_range(0..=other.len());
                    let to = (from + rng.random_range(0..40)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
        bytes
    }
}
