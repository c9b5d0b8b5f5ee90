//! Consistent-hash rings: which node owns a key, which nodes follow it, and what a change of
//! members moves.
//!
//! A [`Ring`] places every member at many points of a circle of 2⁶⁴ positions. A key belongs to the
//! member of the first point at or after the key's own position (its *owner*); the walk clockwise
//! from there gives its *successors*, and the first `n` of them make its *replica set*. When a
//! member joins or leaves, only the keys that it gains or gives up move.
//!
//! ```
//! use ringlock_ring::{Member, Ring, RingDiff};
//!
//! let five = Ring::builder().members(["a", "b", "c", "d", "e"].map(Member::new)).build()?;
//! let owner = five.owner(b"orders/42");
//! println!("orders/42 belongs to {}", five.member(owner).name());
//!
//! // Replica sets are worked out once, for every arc of the ring; a look-up afterwards is O(1).
//! let old = five.replica_sets(3)?;
//! assert_eq!(old.of(b"orders/42")[0], owner);
//!
//! // What would a sixth node move? Exactly its own share, and not a position more.
//! let six = Ring::builder().members(["a", "b", "c", "d", "e", "f"].map(Member::new)).build()?;
//! let plan = RingDiff::between(&old, &six.replica_sets(3)?)?;
//! assert_eq!(plan.owner_width(), plan.owner_minimum());
//! assert!(plan.owner_moves().iter().all(|moved| moved.to == "f"));
//! print!("{plan}");
//! # Ok::<(), ringlock_ring::RingError>(())
//! ```
//!
//! # What holds
//!
//! - **Pure.** No I/O, clock or randomness: the same members in any order give the same ring in
//!   every process, on every platform and in every version. A format is a frozen byte layout; a
//!   changed byte would be a new [`Format`].
//! - **Minimal.** In the native formats a change moves only the changed member's share.
//!   ([`Format::Ketama`] renormalises weights and so moves a little more, as the programs it agrees
//!   with do.)
//! - **Strict.** A requirement that cannot be met (too few members, hosts or zones) is a
//!   [`RingError`] that states what to do, never a silent relaxation.
//! - **Exact.** Widths are integers out of 2⁶⁴ ([`Ring::shares`], [`RingDiff`]), not samples.
//!
//! # Map of the code
//!
//! | file | contents |
//! |---|---|
//! | `format.rs` | the formats: a member's points, a key's position |
//! | `index.rs` | the sorted points, and how to find the first one at or after a position |
//! | `ring.rs` | members, the builder, owners, successors, shares |
//! | `replicas.rs` | replica sets, with the rules for hosts and zones |
//! | `diff.rs` | what moves between two rings |
//! | `error.rs` | everything that can be wrong with a ring |

mod diff;
mod error;
mod format;
mod index;
mod member;
mod replicas;
mod ring;

pub use diff::{ChangedRange, OwnerMove, RingDiff, SetMove, fraction};
pub use error::RingError;
pub use format::{DEFAULT_VNODES, Format, ParseFormatError};
pub use index::{KeyRange, Segment};
pub use member::{MAX_MEMBERS, MAX_POINTS, Member, NodeIndex};
pub use replicas::ReplicaSets;
pub use ring::{Ring, RingBuilder, Successors};
