//! The edges: every error and what leads to it, the smallest rings, points that fall together.

#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;

use ringlock_ring::{
    DEFAULT_VNODES, Format, KeyRange, MAX_MEMBERS, MAX_POINTS, Member, NodeIndex, Ring,
    RingBuilder, RingDiff, RingError,
};

fn ring(names: &[&str]) -> RingBuilder {
    Ring::builder().members(names.iter().map(|&name| Member::new(name)))
}

fn error_of(builder: RingBuilder) -> RingError {
    builder.build().unwrap_err()
}

#[test]
fn builder_says_what_is_wrong() {
    let (name, nobody) = (|| "a".to_owned(), String::new());
    assert_eq!(error_of(ring(&[])), RingError::NoMembers);
    assert_eq!(
        error_of(ring(&["b", "a", "a"])),
        RingError::DuplicateName { name: name() }
    );
    assert_eq!(error_of(ring(&["b", &nobody])), RingError::EmptyName);
    let usurper = ring(&["a"]).member(Member::new("b").with_anchor("a"));
    assert_eq!(
        error_of(usurper),
        RingError::DuplicateAnchor {
            anchor: name(),
            first: name(),
            second: "b".to_owned()
        }
    );
    let weightless = ring(&["b"]).member(Member::new("a").with_weight(0));
    assert_eq!(error_of(weightless), RingError::ZeroWeight { name: name() });
    assert_eq!(error_of(ring(&["a"]).vnodes(0)), RingError::ZeroVnodes);
    for format in [Format::Ketama, Format::Nginx] {
        let fixed = ring(&["a"]).format(format);
        assert_eq!(
            error_of(fixed.clone().vnodes(3)),
            RingError::FixedVnodes { format, vnodes: 3 }
        );
        assert!(fixed.vnodes(DEFAULT_VNODES).build().is_ok());
    }
    for other_zone in [Member::new("b").with_zone("z2"), Member::new("b")] {
        let host = || "h".to_owned();
        let one = Member::new("a").with_host("h").with_zone("z1");
        let torn = Ring::builder().members([one, other_zone.with_host("h")]);
        assert_eq!(error_of(torn), RingError::HostInTwoZones { host: host() });
    }
}

#[test]
fn sizes_are_bounded() {
    let many = |count| (0..count).map(|i| Member::new(i.to_string()));
    let members = MAX_MEMBERS + 1;
    let error = error_of(Ring::builder().vnodes(1).members(many(members)));
    assert_eq!(error, RingError::TooManyMembers { members });
    let largest = Ring::builder()
        .vnodes(1)
        .members(many(MAX_MEMBERS))
        .build()
        .unwrap();
    assert_eq!(largest.member(NodeIndex::new(u16::MAX)).name(), "9999");

    let points = MAX_POINTS as u64 + 1;
    assert_eq!(
        error_of(ring(&["a"]).vnodes(points as u32)),
        RingError::TooManyPoints { points }
    );
    let heavy = || Member::new("b").with_weight(u32::MAX);
    for format in Format::ALL {
        let error = error_of(ring(&["a"]).format(format).member(heavy()));
        match format {
            // Ketama divides by the total weight: nothing is left of the lighter one.
            Format::Ketama => {
                assert!(matches!(error, RingError::NoShare { name, .. } if name == "a"))
            }
            _ => assert!(matches!(error, RingError::TooManyPoints { .. })),
        }
    }
    let overflow = Ring::builder().vnodes(u32::MAX).members([heavy(), heavy()]);
    assert!(matches!(
        error_of(overflow),
        RingError::DuplicateName { .. }
    ));
    let overflow = ring(&[])
        .vnodes(u32::MAX)
        .member(heavy())
        .member(Member::new("a").with_weight(u32::MAX));
    assert_eq!(
        error_of(overflow),
        RingError::TooManyPoints { points: u64::MAX }
    );
}

#[test]
fn names_that_hash_alike_are_refused() {
    for (format, names) in [
        (Format::Ketama, ["a", "a:11211"]),
        (Format::Nginx, ["a", "a:"]),
        (Format::Nginx, ["/run/redis", "UNIX:/run/redis"]),
    ] {
        let error = error_of(ring(&names).format(format));
        assert!(
            matches!(error, RingError::NoShare { format: of, .. } if of == format),
            "{error}"
        );
    }
}

#[test]
fn replica_sets_are_never_relaxed() {
    let of = |members: &[Member], n| {
        let ring = Ring::builder()
            .members(members.iter().cloned())
            .build()
            .unwrap();
        ring.replica_sets(n).map(|_| ())
    };
    let plain = ["a", "b", "c"].map(Member::new);
    assert_eq!(of(&plain, 0), Err(RingError::ReplicasZero));
    assert_eq!(of(&plain, 3), Ok(()));
    assert_eq!(
        of(&plain, 4),
        Err(RingError::NotEnoughMembers {
            replicas: 4,
            members: 3
        })
    );

    let two_hosts = plain.clone().map(|member| match member.name() {
        "c" => member,
        _ => member.with_host("h"),
    });
    assert_eq!(of(&two_hosts, 2), Ok(()));
    assert_eq!(
        of(&two_hosts, 3),
        Err(RingError::NotEnoughHosts {
            replicas: 3,
            hosts: 2
        })
    );

    let one_zone = plain.map(|member| member.with_zone("z"));
    assert_eq!(of(&one_zone, 1), Ok(()));
    assert_eq!(
        of(&one_zone, 2),
        Err(RingError::ZoneRule {
            replicas: 2,
            limit: 0,
            reachable: 0
        })
    );
    assert_eq!(
        of(&one_zone, 3),
        Err(RingError::ZoneRule {
            replicas: 3,
            limit: 1,
            reachable: 1
        })
    );
}

#[test]
fn formats_do_not_compare() {
    let sets = |format| {
        ring(&["a"])
            .format(format)
            .build()
            .unwrap()
            .replica_sets(1)
            .unwrap()
    };
    let (old, new) = (sets(Format::Md5), sets(Format::Xxh3));
    let error = RingDiff::between(&old, &new).unwrap_err();
    assert_eq!(
        error,
        RingError::FormatsDiffer {
            old: Format::Md5,
            new: Format::Xxh3
        }
    );
}

#[test]
fn format_is_a_word() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "XXH3".parse::<Format>().unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown ring format \"XXH3\": use xxh3, md5, crc32, ketama or nginx"
    );
    for format in Format::ALL {
        assert!(error.contains(format.name()));
    }
}

#[test]
fn one_point_is_a_ring() {
    let ring = ring(&["a"]).vnodes(1).build().unwrap();
    assert_eq!((ring.segments(), ring.shares()), (1, vec![1 << 64]));
    for position in [0, 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(ring.owner_of(ring.segment_at(position)), NodeIndex::new(0));
    }
    let sets = ring.replica_sets(1).unwrap();
    assert!(RingDiff::between(&sets, &sets).unwrap().is_empty());
}

#[test]
fn a_ring_that_changes_hands_changes_in_one_range() {
    let sets = |name| ring(&[name]).build().unwrap().replica_sets(1).unwrap();
    let diff = RingDiff::between(&sets("a"), &sets("b")).unwrap();
    assert_eq!((diff.owner_width(), diff.set_width()), (1 << 64, 1 << 64));
    assert_eq!(diff.ranges().len(), 1);
    assert_eq!(diff.ranges()[0].range.width(), 1 << 64);
    let plan = "owners: 100.000 % of the keys move (at least 100.000 % had to)
   100.000 %       1 ranges  a -> b
replica sets: those of 100.000 % of the keys change
   100.000 %       1 ranges  -a +b
";
    assert_eq!(diff.to_string(), plan);
}

#[test]
fn a_range_may_pass_through_zero() {
    let range = KeyRange {
        after: u64::MAX - 1,
        until: 1,
    };
    assert_eq!(range.width(), 3);
    for (position, inside) in [
        (u64::MAX - 1, false),
        (u64::MAX, true),
        (0, true),
        (1, true),
        (2, false),
    ] {
        assert_eq!(range.contains(position), inside, "{position}");
    }
    assert!(
        KeyRange { after: 7, until: 7 }.contains(7) && KeyRange { after: 7, until: 7 }.contains(8)
    );
}

/// With a thousand nodes some 32-bit points fall together; nginx keeps the first of them.
#[test]
fn nginx_keeps_the_first_of_equal_points() {
    let names: Vec<_> = (0..1000)
        .map(|i| format!("10.0.0.0:{}", 10_000 + i))
        .collect();
    let ring = Ring::builder()
        .format(Format::Nginx)
        .members(names.iter().map(Member::new))
        .build();
    let ring = ring.unwrap();
    let mut first = BTreeMap::new();
    let mut together = 0;
    for name in &names {
        let base = name.replace(':', "\0").into_bytes();
        let mut previous = 0u32;
        for _ in 0..160 {
            previous = crc32fast::hash(&[&base[..], &previous.to_le_bytes()].concat());
            together += usize::from(first.contains_key(&previous));
            first.entry(previous).or_insert(name);
        }
    }
    assert!(
        together > 0,
        "choose names of which some points fall together"
    );
    assert_eq!(ring.segments(), first.len());
    for (point, name) in first {
        let owner = ring.owner_of(ring.segment_at(u64::from(point) << 32));
        assert_eq!(ring.member(owner).name(), name);
    }
}

#[test]
fn a_new_name_under_an_anchor_takes_over_its_keys_and_no_others() {
    for format in Format::ALL {
        let old = ring(&["a", "b", "c"]).format(format).build().unwrap();
        let heir = Member::new("z").with_anchor("b");
        let new = ring(&["a", "c"]).format(format).member(heir);
        let new = new.build().unwrap();
        for replicas in [1, 3] {
            let sets = [&old, &new].map(|ring| ring.replica_sets(replicas).unwrap());
            let diff = RingDiff::between(&sets[0], &sets[1]).unwrap();
            assert_eq!(diff.owner_width(), diff.owner_minimum(), "{format}");
            let moves: Vec<_> = diff.owner_moves().iter().collect();
            assert_eq!(moves.len(), 1, "{format}");
            assert_eq!((&*moves[0].from, &*moves[0].to), ("b", "z"));
        }
    }
}
