//! The members of a ring, and how they are referred to.

/// The most members a ring takes: as many as a [`NodeIndex`] can tell apart.
pub const MAX_MEMBERS: usize = 1 << 16;

/// The most points a ring takes, over all members: 4 194 304, or about 60 MB.
pub const MAX_POINTS: usize = 1 << 22;

/// A node of the ring: a name, the size of its share, and the failure domains it belongs to.
///
/// The name is the identity. It decides where the member's points lie, so that a node may change
/// its address without moving a key, and a renamed node is a new one; unless it takes over the
/// points of another, as its [anchor](Self::with_anchor).
///
/// ```
/// use ringlock_ring::Member;
///
/// let member = Member::new("redis-a").with_weight(2).with_zone("eu-1a").with_host("rack7-03");
/// assert_eq!((member.name(), member.weight()), ("redis-a", 2));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    name: Box<str>,
    weight: u32,
    zone: Option<Box<str>>,
    host: Option<Box<str>>,
    anchor: Option<Box<str>>,
}

impl Member {
    /// A member of weight 1, without a zone or a host.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into().into_boxed_str(),
            weight: 1,
            zone: None,
            host: None,
            anchor: None,
        }
    }

    /// Sets the weight: the member's share in proportion to the others'. At least 1.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Sets the zone: members of one zone may be lost together, so no replica set puts a quorum
    /// into one.
    #[must_use]
    pub fn with_zone(self, zone: impl Into<String>) -> Self {
        Self {
            zone: Some(zone.into().into_boxed_str()),
            ..self
        }
    }

    /// Sets the host: members of one host never meet in one replica set.
    #[must_use]
    pub fn with_host(self, host: impl Into<String>) -> Self {
        Self {
            host: Some(host.into().into_boxed_str()),
            ..self
        }
    }

    /// Sets the anchor: the name from which its points are made, instead of its own. A member that
    /// replaces another takes over its keys, and moves no others, if it takes over its anchor.
    #[must_use]
    pub fn with_anchor(self, anchor: impl Into<String>) -> Self {
        Self {
            anchor: Some(anchor.into().into_boxed_str()),
            ..self
        }
    }

    /// The name, unique within a ring.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight; 1 unless set.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The zone, if set. A member without one counts against no zone's limit.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The anchor: the name unless set. Unique within a ring.
    #[must_use]
    pub fn anchor(&self) -> &str {
        self.anchor.as_deref().unwrap_or(&self.name)
    }

    /// The host, if set. A member without one is a host of its own.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}

/// A member's place in [`Ring::members`](crate::Ring::members), which is sorted by name.
///
/// It is valid only for the ring it came from: adding a member may shift it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(u16);

impl NodeIndex {
    /// The member at `index`.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The index, for use with a slice.
    #[inline]
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}
