//! Import direction: a file imports only from its own room or from one below,
//! and files have no import cycles. `proto` and `ring` are pure. No dependency
//! appears in a public signature. Files stay short.
//!
//! The files are parsed, so that comments and strings do not count. Paths
//! inside macro calls are read from their tokens.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and prints what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, Macro, UseTree, Visibility};

/// The rooms of `src/`, lowest first. Rooms of one row do not import each
/// other.
const FLOORS: [&[&str]; 12] = [
    &["proto"],
    &["clock"],
    &["config"],
    &["error"],
    &["runtime"],
    &["telemetry"],
    &["node"],
    &["cluster"],
    &["lease"],
    &["acquire"],
    &["rebalancer"],
    &["router", "fuzzing", "guide"],
];

/// The maximum number of code lines of a file, without comments, blank lines
/// and its tests.
const MAX_LINES: usize = 400;

/// Crates that a caller need not know. tokio and futures-core are part of the
/// public vocabulary, `ringlock_ring` is ours.
const DEPENDENCIES: [&str; 14] = [
    "forkguard",
    "futures_util",
    "humantime",
    "metrics",
    "parking_lot",
    "rand",
    "redis",
    "rustix",
    "rustls",
    "serde_json",
    "tokio_rustls",
    "toml",
    "tracing",
    "url",
];

/// Names that a pure file must not use: clocks, random numbers, iteration
/// orders that differ from run to run, I/O, threads.
const IMPURE: [&str; 21] = [
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
    "std::collections::hash_map",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "rand",
    "getrandom",
    "rustix",
    "parking_lot",
    "redis",
    "tracing",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::sync::Mutex",
    "std::sync::mpsc",
];

type Segments = Vec<String>;

/// One source file without its unit tests.
struct Source {
    path: String,
    /// Its module, from the crate's root.
    module: Segments,
    /// Every path that it names; those within the crate begin with `crate`.
    paths: BTreeSet<Segments>,
    /// Public items whose signature names a dependency.
    exposed: Vec<String>,
    code_lines: usize,
}

impl Source {
    fn parse(path: &str, text: &str) -> Self {
        let under = path.split("src/").last().unwrap().trim_end_matches(".rs");
        let mut module: Segments = under.split('/').map(String::from).collect();
        module.retain(|part| part != "lib");
        let file: File = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut names = Names {
            module: module.clone(),
            ..Names::default()
        };
        names.visit_file(&file);
        let foreign = names.foreign();
        let exposed = file
            .items
            .iter()
            .flat_map(|item| exposed(item, &foreign))
            .collect();
        let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        Self {
            path: path.into(),
            module,
            paths: names.paths,
            exposed,
            code_lines: body.lines().filter(is_code).count(),
        }
    }

    /// The modules of the crate that it names.
    fn imports(&self) -> impl Iterator<Item = &[String]> {
        self.paths
            .iter()
            .filter(|path| path[0] == "crate")
            .map(|path| &path[1..])
    }
}

/// Collects paths, with `super` and `self` resolved.
#[derive(Default)]
struct Names {
    module: Segments,
    paths: BTreeSet<Segments>,
}

impl Names {
    fn add(&mut self, path: &[String]) {
        let mut base = vec!["crate".to_owned()];
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("self" | "super") => base.extend(self.module.iter().cloned()),
            Some(_) => base.clear(),
            None => return,
        }
        while let Some(first @ ("self" | "super")) = rest.first().map(String::as_str) {
            if first == "super" {
                base.pop();
            }
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        self.paths.insert(base);
    }

    fn add_tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) if name.ident == "self" => self.add(before),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|tree| self.add_tree(tree, before)),
        }
    }

    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => {
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.add(&std::mem::replace(&mut path, vec![ident.to_string()]));
                    colons = 0;
                    continue;
                }
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                _ => {}
            }
            self.add(&std::mem::take(&mut path));
            colons = 0;
        }
        self.add(&path);
    }

    /// Names that the file imports from dependencies.
    fn foreign(&self) -> BTreeSet<String> {
        let of_dependency =
            |path: &&Segments| path.len() > 1 && DEPENDENCIES.contains(&path[0].as_str());
        self.paths
            .iter()
            .filter(of_dependency)
            .filter_map(|path| path.last().cloned())
            .collect()
    }
}

impl<'a> Visit<'a> for Names {
    fn visit_item(&mut self, item: &'a Item) {
        if let Item::Mod(module) = item {
            if is_test(&module.attrs) {
                return;
            }
            self.module.push(module.ident.to_string());
            visit::visit_item(self, item);
            self.module.pop();
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        let list = attribute.meta.require_list();
        attribute.path().is_ident("cfg") && list.is_ok_and(|list| list.tokens.to_string() == "test")
    };
    attributes.iter().any(is_test)
}

/// Whether a public item, or a public part of it, names a dependency's type.
fn exposed(item: &Item, foreign: &BTreeSet<String>) -> Vec<String> {
    let is_public = |visibility: &Visibility| matches!(visibility, Visibility::Public(_));
    let mut found = Vec::new();
    let mut check = |name: &dyn ToString, visit: &dyn Fn(&mut Names)| {
        let mut names = Names::default();
        visit(&mut names);
        let shows = |path: &Segments| {
            path.len() > 1 && DEPENDENCIES.contains(&path[0].as_str())
                || path.len() == 1 && foreign.contains(&path[0])
        };
        if names.paths.iter().any(shows) {
            found.push(name.to_string());
        }
    };
    match item {
        Item::Fn(item) if is_public(&item.vis) => {
            check(&item.sig.ident, &|names| names.visit_signature(&item.sig))
        }
        Item::Struct(item) if is_public(&item.vis) => {
            check(&item.ident, &|names| names.visit_generics(&item.generics));
            for field in item.fields.iter().filter(|field| is_public(&field.vis)) {
                check(&item.ident, &|names| names.visit_type(&field.ty));
            }
        }
        Item::Enum(item) if is_public(&item.vis) => {
            check(&item.ident, &|names| names.visit_item_enum(item))
        }
        Item::Trait(item) if is_public(&item.vis) => {
            for part in &item.items {
                if let syn::TraitItem::Fn(part) = part {
                    check(&part.sig.ident, &|names| names.visit_signature(&part.sig));
                }
            }
        }
        Item::Type(item) if is_public(&item.vis) => {
            check(&item.ident, &|names| names.visit_type(&item.ty))
        }
        Item::Use(item) if is_public(&item.vis) => {
            check(&"use", &|names| names.visit_item_use(item))
        }
        Item::Impl(item) if item.trait_.is_none() => {
            for part in &item.items {
                if let syn::ImplItem::Fn(part) = part
                    && is_public(&part.vis)
                {
                    check(&part.sig.ident, &|names| names.visit_signature(&part.sig));
                }
            }
        }
        _ => {}
    }
    found
}

/// Imports of a room that is not below.
fn upward(source: &Source) -> Vec<String> {
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let Some(own) = source.module.first() else {
        return Vec::new();
    };
    let wrong = source.imports().filter(|path| {
        path.first().is_some_and(|room| {
            room != own
                && floor(room).is_some_and(|other| floor(own).is_none_or(|own| other >= own))
        })
    });
    wrong.map(|path| path.join("::")).collect()
}

/// The impure names in a pure file.
fn impure(source: &Source) -> Vec<String> {
    let names = source.paths.iter().map(|path| path.join("::"));
    let is_impure = |name: &String| {
        let is_under = |impure: &&str| format!("{name}::").starts_with(&format!("{impure}::"));
        IMPURE.iter().any(is_under)
    };
    names.filter(is_impure).collect()
}

/// Import cycles between files. A file and its child modules count as one for
/// each other.
fn circle(sources: &[Source]) -> Option<String> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| &*source.module).collect();
    let mut imports = BTreeMap::new();
    for source in sources {
        let own = &*source.module;
        let named = source.imports().filter_map(|path| {
            (1..=path.len())
                .rev()
                .map(|len| &path[..len])
                .find(|path| modules.contains(path))
        });
        let others = named.filter(|other| !own.starts_with(other) && !other.starts_with(own));
        imports.insert(own, others.collect::<BTreeSet<_>>());
    }
    // A module that imports nothing of the rest is at the bottom; it is
    // removed.
    while let Some(bottom) = imports
        .iter()
        .find(|(_, named)| named.is_empty())
        .map(|(&module, _)| module)
    {
        imports.remove(bottom);
        imports.values_mut().for_each(|named| {
            named.remove(bottom);
        });
    }
    let left: Vec<String> = imports.keys().map(|module| module.join("::")).collect();
    (!left.is_empty()).then(|| left.join(", "))
}

fn too_long(source: &Source) -> Vec<String> {
    let finding = format!("{} code lines", source.code_lines);
    (source.code_lines > MAX_LINES)
        .then_some(finding)
        .into_iter()
        .collect()
}

/// The files below `folder`, without those of the programs.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap();
                sources.push(Source::parse(path, &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn library() -> Vec<Source> {
    let mut sources = sources("src");
    sources.retain(|source| !source.path.starts_with("src/bin/"));
    sources
}

/// All findings of `check`, file by file.
fn findings(sources: &[Source], check: impl Fn(&Source) -> Vec<String>) -> String {
    let mut text = String::new();
    for source in sources {
        for finding in check(source) {
            let _ = writeln!(text, "{}: {finding}", source.path);
        }
    }
    text
}

#[test]
fn imports_point_down_and_not_in_a_circle() {
    let sources = library();
    let imports: usize = sources.iter().map(|source| source.imports().count()).sum();
    assert!(sources.len() > 80 && imports > 500, "{imports} imports");
    assert_eq!(findings(&sources, upward), "");
    assert_eq!(circle(&sources), None);
    for pure in ["proto/src", "ring/src"] {
        assert_eq!(circle(&self::sources(pure)), None);
    }
}

#[test]
fn proto_and_ring_are_pure() {
    let proto = sources("proto/src");
    assert!(proto.len() > 10, "{} files", proto.len());
    assert_eq!(findings(&proto, impure), "");
    assert_eq!(findings(&sources("ring/src"), impure), "");
}

#[test]
fn no_dependency_shows_in_a_public_signature() {
    for sources in [library(), sources("proto/src"), sources("ring/src")] {
        assert_eq!(findings(&sources, |source| source.exposed.clone()), "");
    }
}

#[test]
fn files_are_short() {
    let folders = ["src", "proto/src", "ring/src"].into_iter();
    let mut sources: Vec<Source> = folders.flat_map(sources).collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.code_lines));
    for source in sources.iter().take(10) {
        println!("{:>4} {}", source.code_lines, source.path);
    }
    assert_eq!(findings(&sources, too_long), "");
}

/// Every test, file and mutant that `docs/PROTOCOL.md` names as what holds a rule.
#[test]
fn what_holds_a_rule_exists() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| std::fs::read_to_string(Path::new(root).join(path)).ok();
    let document = read("docs/PROTOCOL.md").unwrap();
    let mutants = read("proto/tests/model/mutants.rs").unwrap();
    let simulated = read("proto/tests/simulation/mutants.rs").unwrap();
    let (mut missing, mut found) = (Vec::new(), 0);
    for name in document.split('`').skip(1).step_by(2) {
        let is_there = match named(name) {
            None => continue,
            Some(Named::Mutant { mutant, scenario }) => {
                mutants.contains(&format!(": {mutant} in {scenario},"))
            }
            Some(Named::Simulated(mutant)) => simulated.contains(&format!("    {mutant},")),
            Some(Named::Test { path, test: None }) => Path::new(root).join(path).exists(),
            Some(Named::Test { path, test }) => read(&path).is_some_and(|text| {
                let test = test.unwrap_or_default();
                text.contains(&format!("fn {test}("))
            }),
        };
        found += 1;
        if !is_there {
            missing.push(name);
        }
    }
    println!("{found} names checked");
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 100, "only {found} names were recognised");
}

/// What the document names.
#[derive(Debug, PartialEq)]
enum Named<'t> {
    /// A mutant of the model, and the scenario that catches it.
    Mutant { mutant: &'t str, scenario: &'t str },
    /// A mutant of the simulation.
    Simulated(&'t str),
    /// A file, or a test in it.
    Test { path: String, test: Option<&'t str> },
}

/// `None`: something else, such as a request or a field.
fn named(name: &str) -> Option<Named<'_>> {
    let is_camel = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.contains(|other: char| other.is_ascii_lowercase())
    };
    if let Some(mutant) = name.strip_prefix("sim ").filter(|mutant| is_camel(mutant)) {
        return (mutant != "Mutant").then_some(Named::Simulated(mutant));
    }
    let (path, test) = match name.split_once(": ") {
        Some((path, test)) => (path, Some(test)),
        None => (name, None),
    };
    let (first, rest) = path.split_once('/')?;
    let is_scenario = |word: &str| word.bytes().all(|it| it.is_ascii_uppercase() || it == b'_');
    if is_camel(first) && is_scenario(rest) {
        let (mutant, scenario) = (first, rest);
        // The pattern of all of them, in the legend.
        return (scenario != "NAME").then_some(Named::Mutant { mutant, scenario });
    }
    if path.contains(['{', '…', ' ']) || path.ends_with('/') {
        return None;
    }
    let path = match (first, rest.split_once('/')) {
        ("proto", Some(("src" | "tests", _))) => path.to_owned(),
        ("proto", _) => format!("proto/src/{rest}"),
        ("node", _) => format!("src/{path}"),
        ("api" | "redis" | "cluster" | "cli", _) => format!("tests/{path}.rs"),
        _ => return None,
    };
    Some(Named::Test { path, test })
}

#[test]
fn what_the_document_names_is_recognised() {
    let (mutant, scenario) = ("NoViewCheck", "VIEWS");
    for (name, is) in [
        ("NoViewCheck/VIEWS", Named::Mutant { mutant, scenario }),
        ("sim AnyNonce", Named::Simulated("AnyNonce")),
        (
            "proto/lease.rs: ttl_bounds",
            Named::Test {
                path: "proto/src/lease.rs".into(),
                test: Some("ttl_bounds"),
            },
        ),
        (
            "redis/hostile/shifted",
            Named::Test {
                path: "tests/redis/hostile/shifted.rs".into(),
                test: None,
            },
        ),
    ] {
        assert_eq!(named(name), Some(is));
    }
    for name in [
        "KEPT",
        "now < old `valid_until`",
        "t0 + ttl",
        "epoch/digest",
    ] {
        assert_eq!(named(name), None, "{name}");
    }
}

#[test]
fn the_checks_find_what_they_are_made_for() {
    let source = Source::parse;
    let proto = source(
        "src/proto/acquire.rs",
        "use crate::{proto::time::Instant, router::Router as R};\n\
         // crate::lease in a comment\n\
         const TEXT: &str = \"crate::lease\";\n\
         fn f() { super::super::lease::open(); super::machine::on(); m!(a, crate::node::x(b)) }\n\
         #[cfg(test)]\nmod tests { use crate::cluster; }",
    );
    assert_eq!(upward(&proto), ["lease::open", "node::x", "router::Router"]);
    let node = source(
        "src/node/redis/reader.rs",
        "use super::super::memory; use crate::clock;",
    );
    assert_eq!(upward(&node), [""; 0]);
    let same_row = source("src/router.rs", "use crate::guide::x;");
    assert_eq!(upward(&same_row), ["guide::x"]);

    let pure = source(
        "src/proto/time.rs",
        "use std::{time::{Duration, Instant}, collections::BTreeMap};\n\
         fn f(rand: u8) -> crate::proto::time::Instant { rand::random() }\n\
         fn g<'a>(c: char) -> bool { c == '\"' && std::fs::exists() }",
    );
    assert_eq!(
        impure(&pure),
        ["rand::random", "std::fs::exists", "std::time::Instant"]
    );

    let public = source(
        "src/node.rs",
        "use redis::{Value, Client};\n\
         pub fn f(client: &Client) -> u8 { 0 }\n\
         pub(crate) fn g(client: &Client) {}\n\
         pub struct S { pub a: u8, b: Client, pub c: Option<url::Url> }\n\
         pub enum E { A(u8), B(Value) }\n\
         pub trait T { fn h(&self) -> Result<(), toml::de::Error>; }\n\
         pub fn fine(f: impl Fn(u8) -> u8) -> Vec<u8> { Client::new() }\n\
         impl S { pub fn i(self) -> Client { x } fn j(self) -> Client { x } }\n\
         pub use redis::Cmd;",
    );
    assert_eq!(public.exposed, ["f", "S", "E", "h", "i", "use"]);

    let a = || source("src/proto/a.rs", "use super::b::B;");
    let b = source("src/proto/b.rs", "use crate::proto::c;");
    let c = source("src/proto/c.rs", "fn f() { super::a::A::new() }");
    assert_eq!(
        circle(&[a(), b, c]).as_deref(),
        Some("proto::a, proto::b, proto::c")
    );
    let b = source("src/proto/b.rs", "use std::fmt;");
    assert_eq!(circle(&[a(), b]), None);

    let long = source("src/x.rs", "//! A\n\nfn f() {\n    // B\n    g();\n}\n");
    assert_eq!((long.code_lines, too_long(&long)), (3, Vec::new()));
    let long = source("src/x.rs", &"fn f() {}\n".repeat(MAX_LINES + 1));
    assert_eq!(too_long(&long), ["401 code lines"]);
}
