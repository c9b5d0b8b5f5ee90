//! What holds for every ring, on generated ones. Each run draws a seed and prints it when it fails;
//! `PROPTEST_RNG_SEED=… cargo test` repeats it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails loudly, and shows its seed"
)]

mod naive;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use naive::NaiveRing;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use proptest::test_runner::RngSeed;
use ringlock_ring::{
    ChangedRange, Format, KeyRange, Member, ReplicaSets, Ring, RingDiff, RingError,
};

const WHOLE: u128 = 1 << 64;
const NATIVE: [Format; 3] = [Format::Xxh3, Format::Md5, Format::Crc32];

fn config(cases: u32) -> ProptestConfig {
    let seed = std::env::var("PROPTEST_RNG_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
    println!("PROPTEST_RNG_SEED={seed}");
    let mut config = ProptestConfig::with_cases(cases);
    config.rng_seed = RngSeed::Fixed(seed);
    config.failure_persistence = None;
    config
}

fn native() -> impl Strategy<Value = Format> {
    proptest::sample::select(&NATIVE[..])
}

/// Members of distinct names, without labels.
fn members(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Member>> {
    let names = prop::collection::btree_set("[a-zß-]{1,3}(:[0-9]{1,4})?", count);
    names.prop_flat_map(|names| {
        let weights = prop::collection::vec(1..4u32, names.len());
        (Just(names), weights).prop_map(|(names, weights)| {
            let members = names.into_iter().zip(weights);
            members
                .map(|(name, weight)| Member::new(name).with_weight(weight))
                .collect()
        })
    })
}

/// Members with some hosts and zones, each host within one zone.
fn labelled(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Member>> {
    let label = |member: Member, (host, zone): (Option<u8>, Option<u8>)| {
        let (member, zone) = match host {
            // A host's zone is fixed: one of three, or none.
            Some(host) => (
                member.with_host(format!("h{host}")),
                [None, Some(0), Some(1), Some(2)][host as usize % 4],
            ),
            None => (member, zone),
        };
        match zone {
            Some(zone) => member.with_zone(format!("z{zone}")),
            None => member,
        }
    };
    members(count).prop_flat_map(move |members| {
        let labels = (prop::option::of(0..8u8), prop::option::of(0..4u8));
        let labels = prop::collection::vec(labels, members.len());
        (Just(members), labels).prop_map(move |(members, labels)| {
            members
                .into_iter()
                .zip(labels)
                .map(|(member, labels)| label(member, labels))
                .collect()
        })
    })
}

fn ring(format: Format, vnodes: u32, members: &[Member]) -> Ring {
    Ring::builder()
        .format(format)
        .vnodes(vnodes)
        .members(members.iter().cloned())
        .build()
        .unwrap()
}

/// Every point, its neighbouring positions, both ends of the ring, and some more.
fn telling_positions(points: impl IntoIterator<Item = u64>, more: &[u64]) -> Vec<u64> {
    let around = points
        .into_iter()
        .flat_map(|p| [p.wrapping_sub(1), p, p.wrapping_add(1)]);
    around
        .chain([0, 1, u64::MAX])
        .chain(more.iter().copied())
        .collect()
}

fn names_at(sets: &ReplicaSets, position: u64) -> Vec<&str> {
    let set = sets.of_segment(sets.ring().segment_at(position));
    set.iter()
        .map(|&index| sets.ring().member(index).name())
        .collect()
}

fn names<'m>(members: impl IntoIterator<Item = &'m Member>) -> Vec<&'m str> {
    members.into_iter().map(Member::name).collect()
}

/// The first `n` of a walk that the rules for hosts and zones let in.
fn lawful_replicas<'m>(walk: impl Iterator<Item = &'m Member>, n: usize) -> Vec<&'m Member> {
    let mut set = Vec::<&Member>::new();
    for member in walk {
        if set.len() < n && lawful([&set[..], &[member]].concat(), n) {
            set.push(member);
        }
    }
    set
}

/// Whether `set`, as part of a replica set of `n`, keeps the rules for hosts and zones.
fn lawful(set: Vec<&Member>, n: usize) -> bool {
    let pairs = || (0..set.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let host_shared =
        pairs().any(|(i, j)| set[i].host().is_some() && set[i].host() == set[j].host());
    let quorum = n / 2 + 1;
    let zone_crowded = set.iter().filter_map(|member| member.zone()).any(|zone| {
        set.iter()
            .filter(|member| member.zone() == Some(zone))
            .count()
            > n - quorum
    });
    !host_shared && (n == 1 || !zone_crowded)
}

proptest! {
    #![proptest_config(config(96))]

    /// Owners and successors are those of a linear search through the points.
    #[test]
    fn lookup_is_the_naive_one(
        format in native(),
        vnodes in 1..24u32,
        members in members(1..9),
        positions in prop::collection::vec(any::<u64>(), 40),
    ) {
        let (ring, twin) = (ring(format, vnodes, &members), NaiveRing::new(format, vnodes, &members));
        for position in telling_positions(twin.points.iter().map(|point| point.0), &positions) {
            let segment = ring.segment_at(position);
            let walk = ring.successors_of(segment).map(|index| ring.member(index));
            prop_assert_eq!(names(walk), names(twin.walk(position)), "at {}", position);
            let owner = ring.member(ring.owner_of(segment));
            prop_assert_eq!(Some(owner), twin.walk(position).next());
        }
        prop_assert_eq!(ring.segments(), twin.points.len());
    }

    /// A key is answered for by its position, through every door.
    #[test]
    fn all_lookups_agree(members in members(3..9), key in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in Format::ALL {
            let ring = ring(format, 160, &members);
            let sets = ring.replica_sets(3).unwrap();
            let segment = ring.segment_at(ring.position(&key));
            prop_assert_eq!(ring.segment(&key), segment);
            prop_assert_eq!(ring.owner(&key), ring.owner_of(segment));
            prop_assert_eq!(sets.of(&key), sets.of_segment(segment));
            prop_assert_eq!(sets.of(&key), &ring.successors(&key).take(3).collect::<Vec<_>>()[..]);
        }
    }

    /// Successors begin with the owner and name every member once, and say how many are left.
    #[test]
    fn successors_are_all_members_once(members in members(1..30), key in any::<[u8; 8]>()) {
        for format in Format::ALL {
            let ring = ring(format, 160, &members);
            let successors = ring.successors(&key);
            prop_assert_eq!(successors.len(), ring.len());
            let successors: Vec<_> = successors.collect();
            prop_assert_eq!(successors[0], ring.owner(&key));
            prop_assert_eq!(successors.iter().collect::<BTreeSet<_>>().len(), ring.len());
            prop_assert_eq!(successors.len(), ring.len());
        }
    }

    /// The order in which members are given changes nothing, and labels change no owner.
    #[test]
    fn order_changes_nothing(
        (given, shuffled) in labelled(1..12).prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        for format in Format::ALL {
            let (one, other) = (ring(format, 160, &given), ring(format, 160, &shuffled));
            prop_assert_eq!(one.members(), other.members());
            prop_assert_eq!(one.digest(), other.digest());
            prop_assert_eq!(one.shares(), other.shares());
            for (index, member) in (0..).zip(one.members()) {
                prop_assert_eq!(one.index_of(member.name()), Some(ringlock_ring::NodeIndex::new(index)));
            }
        }
    }

    /// Shares are exact, follow the weights, and stray little: by less than six standard
    /// deviations.
    #[test]
    fn shares_are_balanced(format in native(), members in members(2..40)) {
        let shares = ring(format, 160, &members).shares();
        prop_assert_eq!(shares.iter().sum::<u128>(), WHOLE);
        let total: u32 = members.iter().map(Member::weight).sum();
        for (member, share) in members.iter().zip(shares) {
            let fair = f64::from(member.weight()) / f64::from(total);
            let strays = ringlock_ring::fraction(share) / fair - 1.0;
            let deviation = 1.0 / f64::from(160 * member.weight()).sqrt();
            prop_assert!(strays.abs() < 6.0 * deviation, "{} strays by {strays:.3}", member.name());
        }
    }

    /// A member that comes, goes or changes its weight moves its own share, and nothing else moves.
    #[test]
    fn movement_is_minimal(
        format in native(),
        vnodes in 1..40u32,
        members in members(4..10),
        chosen in any::<Index>(),
        heavier in 1..4u32,
    ) {
        let chosen = chosen.get(&members).clone();
        let others: Vec<_> = members.iter().filter(|member| **member != chosen).cloned().collect();
        let grown = chosen.clone().with_weight(chosen.weight() + heavier);
        let without = ring(format, vnodes, &others).replica_sets(3).unwrap();
        let with = ring(format, vnodes, &members).replica_sets(3).unwrap();
        let more = ring(format, vnodes, &[&others[..], &[grown]].concat()).replica_sets(3).unwrap();

        for (old, new) in [(&without, &with), (&with, &more)] {
            let grows = RingDiff::between(old, new).unwrap();
            let shrinks = RingDiff::between(new, old).unwrap();
            prop_assert!(grows.owner_moves().iter().all(|moved| moved.to == chosen.name()));
            prop_assert!(shrinks.owner_moves().iter().all(|moved| moved.from == chosen.name()));
            prop_assert!(grows.set_moves().iter().all(|moved| moved.joined == [chosen.name()] && moved.left.len() == 1));
            for diff in [&grows, &shrinks] {
                prop_assert_eq!(diff.owner_width(), diff.owner_minimum());
                prop_assert_eq!(diff.seat_width(), diff.seat_minimum());
            }
            prop_assert_eq!(grows.owner_width(), shrinks.owner_width());
            prop_assert_eq!(grows.set_width(), shrinks.set_width());
        }
        let came = RingDiff::between(&without, &with).unwrap();
        let index = with.ring().index_of(chosen.name()).unwrap();
        prop_assert_eq!(came.owner_width(), with.ring().shares()[index.get()]);
        prop_assert_eq!(came.seat_width(), with.loads()[index.get()]);
    }

    /// Replica sets are those of a naive walk; they keep the rules, begin with the owner, and are
    /// refused exactly when no choice of members at all would keep the rules.
    #[test]
    fn replica_sets_are_the_naive_ones(
        vnodes in 1..12u32,
        members in prop_oneof![members(1..8), labelled(1..8)],
        n in 1..6usize,
        positions in prop::collection::vec(any::<u64>(), 10),
    ) {
        let (ring, twin) = (ring(Format::Xxh3, vnodes, &members), NaiveRing::new(Format::Xxh3, vnodes, &members));
        let subsets = (0..1u32 << members.len()).map(|bits| {
            members.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, member)| member).collect::<Vec<_>>()
        });
        // Two replicas survive no loss at all, so that no member with a zone can be among them, not
        // even as the owner.
        let startable = n != 2 || members.iter().all(|member| member.zone().is_none());
        let possible = startable && subsets.filter(|set| set.len() == n).any(|set| lawful(set, n));
        match ring.replica_sets(n) {
            Err(RingError::NotEnoughMembers { .. } | RingError::NotEnoughHosts { .. } | RingError::ZoneRule { .. }) => {
                prop_assert!(!possible);
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(sets) => {
                prop_assert!(possible);
                for position in telling_positions(twin.points.iter().map(|point| point.0), &positions) {
                    let set = lawful_replicas(twin.walk(position), n);
                    prop_assert_eq!(set.len(), n);
                    prop_assert_eq!(Some(set[0]), twin.walk(position).next());
                    prop_assert_eq!(names_at(&sets, position), names(set.clone()), "at {}", position);
                    prop_assert!(lawful(set, n));
                }
                prop_assert_eq!(sets.loads().iter().sum::<u128>(), WHOLE * n as u128);
            }
        }
    }

    /// A diff is what asking both naive rings between every two points says.
    #[test]
    fn diff_is_brute_force(
        format in native(),
        vnodes in 1..8u32,
        (before, after) in members(1..9).prop_flat_map(|all| {
            let some = || subsequence(all.clone(), 1..=all.len());
            (some(), some())
        }),
        n in 1..4usize,
        reweighted in 1..4u32,
    ) {
        let mut after = after;
        after[0] = after[0].clone().with_weight(reweighted);
        prop_assume!(n <= before.len().min(after.len()));
        let [old_twin, new_twin] = [&before, &after].map(|members| NaiveRing::new(format, vnodes, members));
        let [old, new] = [&before, &after].map(|members| ring(format, vnodes, members).replica_sets(n).unwrap());
        let diff = RingDiff::between(&old, &new).unwrap();

        let cuts: BTreeSet<u64> = old_twin.points.iter().chain(&new_twin.points).map(|point| point.0).collect();
        let mut owners = BTreeMap::<(String, String), u128>::new();
        let mut sets = BTreeMap::<(BTreeSet<&str>, BTreeSet<&str>), u128>::new();
        let mut previous = *cuts.last().unwrap();
        for &until in &cuts {
            let range = KeyRange { after: previous, until };
            previous = until;
            let [was, is] = [&old_twin, &new_twin].map(|twin| names(lawful_replicas(twin.walk(until), n)));
            let [was_set, is_set] = [&was, &is].map(|set| set.iter().copied().collect::<BTreeSet<_>>());
            if was[0] != is[0] {
                *owners.entry((was[0].to_owned(), is[0].to_owned())).or_default() += range.width();
            }
            let holders: Vec<_> = diff.ranges().iter().filter(|changed| changed.range.contains(until)).collect();
            prop_assert_eq!(holders.len(), usize::from(was[0] != is[0] || was_set != is_set));
            for changed in holders {
                // Both ends of the piece between two cuts lie in the range, and the range tells the
                // truth of them.
                prop_assert!(changed.range.contains(range.after.wrapping_add(1)));
                let told = |sets: &ReplicaSets, segment| -> Vec<String> {
                    sets.of_segment(segment).iter().map(|&i| sets.ring().member(i).name().to_owned()).collect()
                };
                prop_assert_eq!(told(diff.before(), changed.old), was.clone());
                prop_assert_eq!(told(diff.after(), changed.new), is.clone());
            }
            if was_set != is_set {
                let left = was_set.difference(&is_set).copied().collect();
                let joined = is_set.difference(&was_set).copied().collect();
                *sets.entry((left, joined)).or_default() += range.width();
            }
        }
        let told = diff.owner_moves().iter().map(|moved| ((moved.from.clone(), moved.to.clone()), moved.width));
        prop_assert_eq!(told.collect::<BTreeMap<_, _>>(), owners);
        let told = diff.set_moves().iter().map(|moved| {
            let [left, joined] = [&moved.left, &moved.joined].map(|names| names.iter().map(String::as_str).collect());
            ((left, joined), moved.width)
        });
        prop_assert_eq!(told.collect::<BTreeMap<_, _>>(), sets);
        let ranges = diff.ranges();
        for (i, one) in ranges.iter().enumerate().filter(|_| ranges.len() > 1) {
            let next = ranges[(i + 1) % ranges.len()];
            let rows = |changed: ChangedRange| {
                (old.of_segment(changed.old).to_vec(), new.of_segment(changed.new).to_vec())
            };
            let as_long_as_can_be = one.range.until != next.range.after || rows(*one) != rows(next);
            prop_assert!(as_long_as_can_be);
        }
        prop_assert!(diff.owner_width() >= diff.owner_minimum());
        prop_assert!(diff.seat_width() >= diff.seat_minimum());
        prop_assert_eq!(diff.is_empty(), diff.owner_width() == 0 && diff.set_width() == 0);
    }

    /// Whatever routing depends on shows in the digest, and what it does not depend on does not.
    #[test]
    fn digest_is_of_all_that_routes(
        format in native(),
        vnodes in 1..9u32,
        members in labelled(2..6),
        chosen in any::<Index>(),
    ) {
        let chosen = chosen.index(members.len());
        let digest = |format, vnodes, change: &dyn Fn(Member) -> Member| {
            let mut members = members.clone();
            members[chosen] = change(members[chosen].clone());
            ring(format, vnodes, &members).digest()
        };
        let renamed = |member: Member| Member::new(format!("{}!", member.name()));
        let other = NATIVE.into_iter().find(|other| *other != format).unwrap();
        let digests = [
            digest(format, vnodes, &|member| member),
            digest(other, vnodes, &|member| member),
            digest(format, vnodes + 1, &|member| member),
            digest(format, vnodes, &renamed),
            digest(format, vnodes, &|member| member.with_host("elsewhere").with_zone("elsewhere")),
            digest(format, vnodes, &|member| {
                let weight = member.weight();
                member.with_weight(weight + 1)
            }),
        ];
        prop_assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
        prop_assert_eq!(digests[0], ring(format, vnodes, &members).digest());
    }
}
