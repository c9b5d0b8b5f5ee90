//! Clusters of nodes with short names.

use ringlock::{Init, Router, RouterBuilder};

/// The name of node `index`: one letter.
pub fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// A builder with the nodes `a`, `b`, … at these URLs, which initialises them
/// at once.
pub fn builder(urls: impl IntoIterator<Item = String>) -> RouterBuilder {
    let nodes = urls.into_iter().enumerate();
    nodes.fold(
        Router::builder().init(Init::Now),
        |builder, (index, url)| builder.node(name(index), url),
    )
}
