//! Everything that can be wrong with a ring, with what to do about it.

use crate::format::Format;
use crate::member::{MAX_MEMBERS, MAX_POINTS};

/// Why a ring, its replica sets or a diff cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The builder was given no member.
    #[error("a ring needs at least one member: add one")]
    NoMembers,

    /// Two members have one name.
    #[error("two members are named {name:?}: give every member a different name")]
    DuplicateName {
        /// The name given twice.
        name: String,
    },

    /// Two members would have the same points.
    #[error(
        "members {first:?} and {second:?} have the same points, those of {anchor:?}: give one of them another name or anchor"
    )]
    DuplicateAnchor {
        /// The anchor that both have.
        anchor: String,
        /// One of the members.
        first: String,
        /// The other.
        second: String,
    },

    /// A member's name is empty.
    #[error("a member has an empty name: the name decides its place in the ring, so give it one")]
    EmptyName,

    /// A member's weight is 0.
    #[error("member {name:?} has weight 0: give it 1 or more, or leave it out of the ring")]
    ZeroWeight {
        /// The member.
        name: String,
    },

    /// A ring was asked for with no points per member.
    #[error("vnodes is 0: give it 1 or more (160 is usual)")]
    ZeroVnodes,

    /// The format prescribes its own number of points.
    #[error(
        "format {format} has a fixed number of points, so vnodes = {vnodes} cannot apply: leave vnodes out, or use a native format"
    )]
    FixedVnodes {
        /// The format.
        format: Format,
        /// The number of vnodes asked for.
        vnodes: u32,
    },

    /// More than [`MAX_MEMBERS`] members.
    #[error("{members} members are more than {MAX_MEMBERS}: split them over several rings")]
    TooManyMembers {
        /// How many were given.
        members: usize,
    },

    /// More than [`MAX_POINTS`] points.
    #[error(
        "{points} points are more than {MAX_POINTS}: lower vnodes, or divide the weights by a common factor"
    )]
    TooManyPoints {
        /// The number that results from the members, weights and vnodes.
        points: u64,
    },

    /// A member would own no position at all.
    ///
    /// The cause is weights that [`Format::Ketama`] rounds to no points, or two names that the
    /// format hashes alike (`a` and `a:11211` in ketama, `a` and `a:` in nginx).
    #[error(
        "member {name:?} would own nothing: format {format} gives it no point of its own; raise its weight, or rename it if another member's name hashes alike"
    )]
    NoShare {
        /// The member.
        name: String,
        /// The format.
        format: Format,
    },

    /// Members of one host are labelled with different zones, or only some of them with one.
    #[error(
        "host {host:?} is labelled with more than one zone: give all members of a host the same zone, or none"
    )]
    HostInTwoZones {
        /// The host.
        host: String,
    },

    /// Replica sets of no members were asked for.
    #[error("a replica set needs at least one member: ask for 1 or more replicas")]
    ReplicasZero,

    /// The ring has fewer members than a replica set needs.
    #[error(
        "{replicas} replicas need as many members, but the ring has {members}: add members or lower replicas"
    )]
    NotEnoughMembers {
        /// The size of a replica set.
        replicas: usize,
        /// The members of the ring.
        members: usize,
    },

    /// The ring has enough members, but on too few hosts.
    #[error(
        "{replicas} replicas need as many hosts, but the members are on {hosts}: add a member on another host or lower replicas"
    )]
    NotEnoughHosts {
        /// The size of a replica set.
        replicas: usize,
        /// The distinct hosts; a member without the label counts as one.
        hosts: usize,
    },

    /// The zones are too few, or too uneven, for any zone to be lost without losing a quorum.
    #[error(
        "of {replicas} replicas at most {limit} may be in one zone, which leaves room for {reachable}: add a member in another zone, lower replicas, or remove the zone labels"
    )]
    ZoneRule {
        /// The size of a replica set.
        replicas: usize,
        /// How many of a set may share a zone: the replicas less a quorum.
        limit: usize,
        /// The largest set that the rule allows on these members.
        reachable: usize,
    },

    /// Rings of two formats have no positions in common: every key may move.
    #[error(
        "the rings have different formats, {old} and {new}, so every key may move: plan it as a move to new nodes, not as a diff"
    )]
    FormatsDiffer {
        /// The older ring's format.
        old: Format,
        /// The newer ring's format.
        new: Format,
    },
}
