//! What is known of a lease's entries, in the view it was granted under and in
//! later ones.

pub mod carry;
pub mod known;
