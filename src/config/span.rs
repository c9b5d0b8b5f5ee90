//! A span of time as text: `10s`, `250ms`, `1h 30m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    humantime::parse_duration(&text).map_err(|error| {
        D::Error::custom(format_args!(
            "{text:?} is not a duration ({error}); write \"10s\""
        ))
    })
}

pub(super) fn some<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    deserialize(input).map(Some)
}
