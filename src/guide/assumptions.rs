//! What the guarantees assume, compared with other libraries.
//!
//! The crate's [front page](crate) lists the guarantees. *Mutual exclusion* (no
//! two leases of one key are valid at the same time) depends on clocks. The
//! *order* of fences (a later lock has the higher one) does not.
//!
//! | | ringlock | Redlock text, redsync | Redisson |
//! |---|---|---|---|
//! | clocks of clients and servers run at the same rate | assumed by mutual exclusion, within 1 % and 2 ms over a ttl | the same | the same, not accounted for |
//! | a *forward step* of a server's wall clock | noticed by every router that was connected before, ahead of the next lock it asks for: the server is asked for none for `max_ttl`. A router that connects afterwards cannot know: mutual exclusion assumes that it meets none, the order does not | unsafe, not noticed | unsafe, not noticed |
//! | a restart without data | noticed; waits out `max_ttl` | operators must delay restarts | a replica may miss a lock |
//! | promotion of a lagging replica | noticed | unsafe, not noticed | acknowledged by replicas first, where configured |
//! | keys evicted under memory pressure | such servers are refused. One whose policy is changed while routers are connected is noticed within 100 ms, and waits out `max_ttl` if it evicted anything. Both guarantees assume that no key is evicted and asked for within that time | unsafe, not noticed | unsafe, not noticed |
//! | a primary made a replica and a primary again under open connections | noticed ahead of the next reply where its data was replaced, otherwise within 100 ms | unsafe, not noticed | unsafe, not noticed |
//! | one server under two names | refused | counts twice | counts twice |
//! | a holder paused past its lease | refused by the fence | unsafe | a separate lock type has fences |
//! | single keys deleted by hand, a virtual machine rolled back while connected | assumed not to happen | the same | the same |
//!
//! The chapter [servers](super::servers) describes how changes under open
//! connections are detected.
//!
//! # A lease is advice
//!
//! A process that stops after it checked
//! [`remaining`](crate::Guard::remaining) and writes a minute later does harm
//! that only a resource that checks fences can refuse: see [fencing a
//! resource](crate::guide#fencing-a-resource).
//!
//! # What a dropped call leaves
//!
//! Whatever an attempt may have put on a node is taken back when the call fails
//! or its future is dropped, on silent nodes too. What is on an unreachable node
//! expires with its ttl.
