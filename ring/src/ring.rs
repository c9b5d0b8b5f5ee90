//! The ring: members and their points, owners and successors.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::error::RingError;
use crate::format::{DEFAULT_VNODES, Format};
use crate::index::{Index, KeyRange, Segment};
use crate::member::{MAX_MEMBERS, MAX_POINTS, Member, NodeIndex};

/// A consistent-hash ring: an immutable snapshot, cheap to clone.
///
/// ```
/// use ringlock_ring::{Member, Ring};
///
/// let ring = Ring::builder().member(Member::new("a")).member(Member::new("b").with_weight(3)).build()?;
/// let walk: Vec<_> = ring.successors(b"orders/42").map(|index| ring.member(index).name()).collect();
/// assert_eq!(walk.len(), 2);
/// assert_eq!(ring.shares().iter().sum::<u128>(), 1 << 64);
/// # Ok::<(), ringlock_ring::RingError>(())
/// ```
#[derive(Clone)]
pub struct Ring {
    inner: Arc<Inner>,
}

struct Inner {
    format: Format,
    vnodes: u32,
    members: Box<[Member]>,
    index: Index,
    digest: u64,
}

impl Ring {
    /// Starts a ring of format [`Format::Xxh3`] with [`DEFAULT_VNODES`], without members.
    pub fn builder() -> RingBuilder {
        RingBuilder {
            format: Format::default(),
            vnodes: DEFAULT_VNODES,
            members: Vec::new(),
        }
    }

    /// The members, sorted by name bytes: the order in which they were given changes nothing.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.inner.members
    }

    /// The member at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is of another, larger ring.
    #[must_use]
    pub fn member(&self, index: NodeIndex) -> &Member {
        &self.inner.members[index.get()]
    }

    /// The index of the member called `name`.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<NodeIndex> {
        let found = self
            .members()
            .binary_search_by(|member| member.name().cmp(name));
        found.ok().map(|index| NodeIndex::new(index as u16))
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.inner.format
    }

    /// Points per unit of weight, as given to the builder.
    #[must_use]
    pub fn vnodes(&self) -> u32 {
        self.inner.vnodes
    }

    /// The number of members.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a ring has at least one member"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.members.len()
    }

    /// The number of segments, which is the number of points.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.inner.index.len()
    }

    /// Where `key` lies on the ring.
    #[inline]
    #[must_use]
    pub fn position(&self, key: &[u8]) -> u64 {
        self.inner.format.position(key)
    }

    /// The segment `key` lies in.
    #[inline]
    #[must_use]
    pub fn segment(&self, key: &[u8]) -> Segment {
        self.segment_at(self.position(key))
    }

    /// The segment `position` lies in: the one that ends with the first point at or after it.
    #[inline]
    #[must_use]
    pub fn segment_at(&self, position: u64) -> Segment {
        self.inner.index.find(position)
    }

    /// The member that owns `key`.
    #[inline]
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> NodeIndex {
        self.owner_of(self.segment(key))
    }

    /// The member that owns `segment`.
    ///
    /// # Panics
    ///
    /// If `segment` is of another, larger ring.
    #[inline]
    #[must_use]
    pub fn owner_of(&self, segment: Segment) -> NodeIndex {
        self.inner.index.owners()[segment.get()]
    }

    /// The members clockwise from `key`: its owner, then every other member once, in the order of
    /// their nearest points.
    pub fn successors(&self, key: &[u8]) -> Successors<'_> {
        self.successors_of(self.segment(key))
    }

    /// The members clockwise from `segment`, as [`successors`](Self::successors) gives them for
    /// each key in it.
    ///
    /// # Panics
    ///
    /// If `segment` is of another, larger ring.
    pub fn successors_of(&self, segment: Segment) -> Successors<'_> {
        let (before, from) = self.inner.index.owners().split_at(segment.get());
        Successors {
            points: from.iter().chain(before),
            met: vec![false; self.len()],
            left: self.len(),
        }
    }

    /// How many of the 2⁶⁴ positions each member owns, in the order of [`members`](Self::members).
    /// The sum is 2⁶⁴.
    #[must_use]
    pub fn shares(&self) -> Vec<u128> {
        let mut shares = vec![0; self.len()];
        self.arcs()
            .for_each(|(_, owner, range)| shares[owner.get()] += range.width());
        shares
    }

    /// A fingerprint of everything that routing depends on: two rings with one digest route every
    /// key alike, to the same owner and the same replica sets. It is stable over processes,
    /// platforms and versions of this crate.
    ///
    /// It is XXH3-64 of the format's name, the members (name, zone, host) and the points (position,
    /// owner's index), each number little-endian and each text preceded by its length. It protects
    /// against accidental collisions, not against deliberate ones.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.inner.digest
    }

    /// Every segment that is not empty, with its owner and range, clockwise from the first point.
    pub fn arcs(&self) -> impl Iterator<Item = (Segment, NodeIndex, KeyRange)> {
        self.inner.index.arcs()
    }

    /// The owner of every segment, in order.
    pub(crate) fn owners(&self) -> &[NodeIndex] {
        self.inner.index.owners()
    }

    /// The position of every point, in order.
    pub(crate) fn points(&self) -> &[u64] {
        self.inner.index.positions()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("format", &self.format())
            .field("members", &self.len())
            .field("points", &self.segments())
            .field("digest", &format_args!("{:016x}", self.digest()))
            .finish()
    }
}

/// The members clockwise from a key, each once; see [`Ring::successors`].
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy"]
pub struct Successors<'ring> {
    points:
        std::iter::Chain<std::slice::Iter<'ring, NodeIndex>, std::slice::Iter<'ring, NodeIndex>>,
    met: Vec<bool>,
    left: usize,
}

impl Iterator for Successors<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        // Without this the last call would walk the rest of the ring and find no new member.
        self.left = self.left.checked_sub(1)?;
        let next = self.points.find(|owner| !self.met[owner.get()])?;
        self.met[next.get()] = true;
        Some(*next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Successors<'_> {}
impl FusedIterator for Successors<'_> {}

/// Collects the members of a [`Ring`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RingBuilder {
    format: Format,
    vnodes: u32,
    members: Vec<Member>,
}

impl RingBuilder {
    /// Sets the format; [`Format::Xxh3`] unless set.
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// Sets the points per unit of weight; [`DEFAULT_VNODES`] unless set. More make shares more
    /// even: the standard deviation of a member's share is about 1/√vnodes of it.
    pub fn vnodes(self, vnodes: u32) -> Self {
        Self { vnodes, ..self }
    }

    /// Adds a member.
    pub fn member(self, member: Member) -> Self {
        self.members([member])
    }

    /// Adds members.
    pub fn members(mut self, members: impl IntoIterator<Item = Member>) -> Self {
        self.members.extend(members);
        self
    }

    /// Builds the ring, in `O(points · log points)`.
    ///
    /// # Errors
    ///
    /// A [`RingError`] that names what is wrong with the members, the vnodes or their product, and
    /// what to do.
    pub fn build(self) -> Result<Ring, RingError> {
        let Self {
            format,
            vnodes,
            mut members,
        } = self;
        members.sort_unstable();
        check_members(&members)?;
        check_vnodes(format, vnodes)?;

        let counts = format.point_counts(&members, vnodes);
        // Saturating, since 2¹⁶ members of weight 2³² − 1 and as many vnodes would be 2⁸⁰ points.
        let total = counts
            .iter()
            .fold(0, |sum: u64, &count| sum.saturating_add(count));
        if total > MAX_POINTS as u64 {
            return Err(RingError::TooManyPoints { points: total });
        }
        let mut points = Vec::with_capacity(total as usize);
        for (index, (member, count)) in (0..=u16::MAX).zip(members.iter().zip(counts)) {
            format.points(member.anchor(), count as u32, |position| {
                points.push((position, NodeIndex::new(index)))
            });
        }
        points.sort_unstable();
        if format == Format::Nginx {
            points.dedup_by_key(|(position, _)| *position);
        }

        let digest = digest(format, &members, &points);
        let members = members.into_boxed_slice();
        // The index gets a point: no format leaves the heaviest member without any.
        let index = Index::new(&points);
        let ring = Ring {
            inner: Arc::new(Inner {
                format,
                vnodes,
                members,
                index,
                digest,
            }),
        };
        match ring.shares().iter().position(|&share| share == 0) {
            Some(idle) => Err(RingError::NoShare {
                name: ring.members()[idle].name().to_owned(),
                format,
            }),
            None => Ok(ring),
        }
    }
}

/// Checks the members one by one and against their neighbours in the order of names.
fn check_members(members: &[Member]) -> Result<(), RingError> {
    if members.is_empty() {
        return Err(RingError::NoMembers);
    }
    if members.len() > MAX_MEMBERS {
        return Err(RingError::TooManyMembers {
            members: members.len(),
        });
    }
    let is_nameless = |member: &Member| member.name().is_empty() || member.anchor().is_empty();
    if members.iter().any(is_nameless) {
        return Err(RingError::EmptyName);
    }
    if let Some(member) = members.iter().find(|member| member.weight() == 0) {
        return Err(RingError::ZeroWeight {
            name: member.name().to_owned(),
        });
    }
    if let Some(pair) = members
        .windows(2)
        .find(|pair| pair[0].name() == pair[1].name())
    {
        return Err(RingError::DuplicateName {
            name: pair[0].name().to_owned(),
        });
    }
    let mut anchors = BTreeMap::new();
    for member in members {
        if let Some(first) = anchors.insert(member.anchor(), member.name()) {
            return Err(RingError::DuplicateAnchor {
                anchor: member.anchor().to_owned(),
                first: first.to_owned(),
                second: member.name().to_owned(),
            });
        }
    }
    let mut zones = BTreeMap::new();
    for member in members {
        if let Some(host) = member.host()
            && *zones.entry(host).or_insert(member.zone()) != member.zone()
        {
            return Err(RingError::HostInTwoZones {
                host: host.to_owned(),
            });
        }
    }
    Ok(())
}

fn check_vnodes(format: Format, vnodes: u32) -> Result<(), RingError> {
    match vnodes {
        0 => Err(RingError::ZeroVnodes),
        DEFAULT_VNODES => Ok(()),
        _ if format.has_fixed_vnodes() => Err(RingError::FixedVnodes { format, vnodes }),
        _ => Ok(()),
    }
}

/// See [`Ring::digest`].
fn digest(format: Format, members: &[Member], points: &[(u64, NodeIndex)]) -> u64 {
    let mut hasher = Xxh3::new();
    let mut text = |text: Option<&str>| match text {
        // A length is never u64::MAX, so that an absent label differs from every present one.
        None => hasher.update(&u64::MAX.to_le_bytes()),
        Some(text) => {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    };
    text(Some(format.name()));
    for member in members {
        text(Some(member.name()));
        text(member.zone());
        text(member.host());
    }
    hasher.update(&(points.len() as u64).to_le_bytes());
    for (position, owner) in points {
        hasher.update(&position.to_le_bytes());
        hasher.update(&(owner.get() as u16).to_le_bytes());
    }
    hasher.digest()
}
