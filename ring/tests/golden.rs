//! Every format against the answers of the programs it follows, or of an independent derivation.
//! `golden/README.md` says where the data comes from.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a golden file that does not parse fails the test, and the totals are worth seeing"
)]

use std::collections::BTreeMap;

use ringlock_ring::{Format, Member, NodeIndex, Ring};
use serde::Deserialize;

#[derive(Deserialize)]
struct Inputs {
    sets: Vec<Nodes>,
    keys: Vec<String>,
    utf8_keys: Vec<String>,
}

#[derive(Clone, Deserialize)]
struct Nodes {
    id: String,
    nodes: Vec<String>,
    weights: Vec<u32>,
}

#[derive(Deserialize)]
struct Golden {
    sets: Vec<Answers>,
}

/// What a program answers for one set of nodes; the nodes are those of `inputs.json` unless given.
#[derive(Deserialize)]
struct Answers {
    id: String,
    owners: String,
    points: Option<usize>,
    nodes: Option<Vec<String>>,
    weights: Option<Vec<u32>>,
    hash: Option<String>,
    format: Option<String>,
    vnodes: Option<u32>,
    digest: Option<String>,
    walks_first60: Option<String>,
    shares: Option<Vec<String>>,
}

fn inputs() -> Inputs {
    serde_json::from_str(include_str!("golden/inputs.json")).unwrap()
}

fn golden(json: &str) -> Vec<Answers> {
    serde_json::from_str::<Golden>(json).unwrap().sets
}

impl Answers {
    fn nodes(&self, inputs: &Inputs) -> Nodes {
        match (&self.nodes, &self.weights) {
            (Some(nodes), Some(weights)) => Nodes {
                id: self.id.clone(),
                nodes: nodes.clone(),
                weights: weights.clone(),
            },
            _ => inputs
                .sets
                .iter()
                .find(|set| set.id == self.id)
                .unwrap()
                .clone(),
        }
    }
}

impl Nodes {
    fn ring(&self, format: Format, vnodes: u32) -> Ring {
        let members = self.nodes.iter().zip(&self.weights);
        let members = members.map(|(name, &weight)| Member::new(name).with_weight(weight));
        Ring::builder()
            .format(format)
            .vnodes(vnodes)
            .members(members)
            .build()
            .unwrap()
    }

    /// The indices into `self.nodes` that `hex` holds.
    fn read(&self, hex: &str) -> Vec<usize> {
        let digits = if self.nodes.len() <= 16 { 1 } else { 2 };
        let number = |i| usize::from_str_radix(&hex[i..i + digits], 16).unwrap();
        (0..hex.len()).step_by(digits).map(number).collect()
    }

    /// The index into `self.nodes` for each index of a member of `ring`.
    fn numbering(&self, ring: &Ring) -> Vec<usize> {
        let numbers: BTreeMap<_, _> = self.nodes.iter().map(String::as_str).zip(0..).collect();
        ring.members()
            .iter()
            .map(|member| numbers[member.name()])
            .collect()
    }
}

/// Asks for the owner of every key and returns how many there were.
fn check_owners<'k>(
    what: &str,
    (nodes, ring, answers): (&Nodes, &Ring, &Answers),
    keys: impl IntoIterator<Item = &'k String>,
    owner: impl Fn(&Ring, &[u8]) -> NodeIndex,
) -> usize {
    let numbering = nodes.numbering(ring);
    let keys = Vec::from_iter(keys);
    let expected = nodes.read(&answers.owners);
    assert_eq!(keys.len(), expected.len(), "{what} {}: keys", answers.id);
    let differ = |(key, expected): &(&&String, &usize)| {
        numbering[owner(ring, key.as_bytes()).get()] != **expected
    };
    let differences = keys.iter().zip(&expected).filter(differ).count();
    assert_eq!(differences, 0, "{what} {}: owners that differ", answers.id);
    if let Some(points) = answers.points {
        assert_eq!(ring.segments(), points, "{what} {}: points", answers.id);
    }
    keys.len()
}

/// Holds `format` against a foreign program's file.
fn check_program(format: Format, json: &str) {
    let inputs = inputs();
    let sets = golden(json);
    let owners = sets.iter().map(|answers| {
        let nodes = answers.nodes(&inputs);
        let ring = nodes.ring(format, 160);
        check_owners(
            format.name(),
            (&nodes, &ring, answers),
            &inputs.keys,
            Ring::owner,
        )
    });
    println!(
        "{format}: {} owners on {} sets, 0 differences",
        owners.sum::<usize>(),
        sets.len()
    );
}

#[test]
fn ketama_is_libmemcached_and_twemproxy() {
    check_program(
        Format::Ketama,
        include_str!("golden/libmemcached-weighted.json"),
    );
}

#[test]
fn nginx_is_nginx() {
    check_program(Format::Nginx, include_str!("golden/nginx-consistent.json"));
}

/// The key's hash is only a position: a fleet that hashes keys otherwise can ask by position.
#[test]
fn ketama_by_position_is_twemproxy_with_other_key_hashes() {
    let inputs = inputs();
    let sets = golden(include_str!("golden/twemproxy-keyhashes-n10-w.json"));
    let mut owners = 0;
    for answers in &sets {
        let nodes = answers.nodes(&inputs);
        let ring = nodes.ring(Format::Ketama, 160);
        let hash: fn(&[u8]) -> u32 = match answers.hash.as_deref() {
            Some("crc32a") => crc32fast::hash,
            Some("crc32") => |key| crc32fast::hash(key) >> 16 & 0x7fff,
            Some("fnv1a_32") => |key| fnv1a(key, 0x811c_9dc5, 0x0100_0193),
            // The constants of 64 bits in arithmetic of 32, as twemproxy has it.
            Some("fnv1a_64") => |key| fnv1a(key, 0x8422_2325, 0x0000_01b3),
            other => panic!("no key hash {other:?}"),
        };
        owners += check_owners(
            "ketama",
            (&nodes, &ring, answers),
            &inputs.keys,
            |ring, key| ring.owner_of(ring.segment_at(u64::from(hash(key)) << 32)),
        );
    }
    println!(
        "ketama, other key hashes: {owners} owners on {} sets, 0 differences",
        sets.len()
    );
}

fn fnv1a(key: &[u8], basis: u32, prime: u32) -> u32 {
    key.iter().fold(basis, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(prime)
    })
}

#[test]
fn native_formats_are_their_derivation() {
    let inputs = inputs();
    let keys = || inputs.keys.iter().chain(&inputs.utf8_keys);
    let mut totals = BTreeMap::<Format, (usize, usize, usize)>::new();
    for answers in &golden(include_str!("golden/native.json")) {
        let format: Format = answers.format.as_deref().unwrap().parse().unwrap();
        let nodes = answers.nodes(&inputs);
        let ring = nodes.ring(format, answers.vnodes.unwrap());
        let numbering = nodes.numbering(&ring);

        let owners = check_owners(format.name(), (&nodes, &ring, answers), keys(), Ring::owner);

        let walks: Vec<_> = answers
            .walks_first60
            .as_deref()
            .unwrap()
            .split(' ')
            .collect();
        for (key, walk) in keys().zip(&walks) {
            let successors = ring.successors(key.as_bytes()).take(5);
            let successors: Vec<_> = successors.map(|index| numbering[index.get()]).collect();
            assert_eq!(
                successors,
                nodes.read(walk),
                "{format} {} walk of {key:?}",
                answers.id
            );
        }

        let digest = format!("{:016x}", ring.digest());
        assert_eq!(
            Some(digest),
            answers.digest,
            "{format} {} digest",
            answers.id
        );

        if let Some(expected) = &answers.shares {
            let shares = ring.shares();
            for (number, share) in numbering.iter().zip(shares) {
                assert_eq!(
                    share.to_string(),
                    expected[*number],
                    "{format} {} share",
                    answers.id
                );
            }
        }
        let total = totals.entry(format).or_default();
        *total = (total.0 + 1, total.1 + owners, total.2 + walks.len());
    }
    for (format, (sets, owners, walks)) in totals {
        println!("{format}: {owners} owners and {walks} walks on {sets} sets, 0 differences");
    }
}
