//! The dashboard shows every metric that exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Metrics that are deliberately left out.
const NOT_SHOWN: [&str; 0] = [];

/// The expressions of the queries of `panel` and of the panels within it.
fn queries(panel: &Value, found: &mut Vec<String>) {
    let list = |name: &str| panel[name].as_array().cloned().unwrap_or_default();
    for target in list("targets") {
        found.push(target["expr"].as_str().unwrap().into());
    }
    for variable in panel["templating"]["list"].as_array().into_iter().flatten() {
        found.extend(variable["query"]["query"].as_str().map(Into::into));
    }
    list("panels")
        .iter()
        .for_each(|panel| queries(panel, found));
}

/// The metrics that a query names.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("ringlock_"))
}

/// Every metric's kind and labels, as documented in the guide.
fn documented() -> BTreeMap<String, (String, String)> {
    let chapter = include_str!("../../src/guide/observability.rs");
    let rows = chapter
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `ringlock_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = format!("ringlock_{}", cells[0].trim_matches('`'));
        (name, (cells[1].into(), cells[2].into()))
    });
    rows.collect()
}

#[test]
fn the_dashboard_asks_for_what_is_documented_and_shows_all_of_it() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../dashboards/ringlock.json")).unwrap();
    let documented = documented();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");
    let mut shown = BTreeSet::new();
    for query in &found {
        assert!(names(query).next().is_some(), "{query}");
        for name in names(query) {
            let part = ["_bucket", "_sum", "_count"];
            let whole = part.iter().find_map(|part| name.strip_suffix(part));
            let of_histogram = whole.filter(|whole| documented.contains_key(*whole));
            let metric = of_histogram.unwrap_or(name);
            let (kind, _) = documented
                .get(metric)
                .unwrap_or_else(|| panic!("{metric}: {query}"));
            assert_eq!(kind == "histogram", of_histogram.is_some(), "{query}");
            let is_rated = query.contains(&format!("rate({name}"))
                || query.contains(&format!("increase({name}"));
            assert_eq!(is_rated, kind != "gauge", "{query}");
            shown.insert(metric.to_owned());
        }
    }
    let mut all: BTreeSet<String> = documented.into_keys().collect();
    for name in NOT_SHOWN {
        assert!(all.remove(name), "{name} is none");
    }
    assert_eq!(shown, all);
}

#[test]
fn labels_that_are_passed_are_documented() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../dashboards/ringlock.json")).unwrap();
    let documented = documented();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    for query in found {
        let cells: String = names(&query)
            .map(|name| {
                ["_bucket", "_sum", "_count"]
                    .iter()
                    .fold(name, |name, part| name.strip_suffix(part).unwrap_or(name))
            })
            .filter_map(|name| documented.get(name))
            .map(|(_, labels)| labels.as_str())
            .collect();
        for by in query
            .split("by (")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            for label in by.split(", ").filter(|label| *label != "le") {
                assert!(cells.contains(&format!("`{label}`")), "{label}: {query}");
            }
        }
    }
}
