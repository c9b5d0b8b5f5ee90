//! The floors of the house, as CONTRIBUTING.md has them: what a file names must
//! lie on its own floor or below, the pure floors name nothing impure, and no
//! dependency shows in a public signature. A check of the text, as good as
//! such a check can be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and tells what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The most code lines of a file, beside comments, blank lines and its tests.
const MAX_LINES: usize = 400;

/// Crates that other crates need not know we use. `ringlock_ring` is ours.
const DEPENDENCIES: [&str; 19] = [
    "bytes",
    "combine",
    "crc32fast",
    "humantime",
    "md5",
    "metrics",
    "parking_lot",
    "rand",
    "redis",
    "rustix",
    "rustls",
    "serde_json",
    "tokio",
    "tokio_rustls",
    "toml",
    "tracing",
    "webpki_roots",
    "xxhash_rust",
    "arc_swap",
];

/// What the pure floors must not name: clocks, chance, iteration orders that
/// differ from run to run, I/O, threads.
const IMPURE: [&str; 22] = [
    "HashMap",
    "HashSet",
    "RandomState",
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
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::mpsc",
];

/// The floor of a module of the crate's root.
fn floor(module: &str) -> usize {
    match module {
        "proto" => 2,
        // Values and the clock, which nodes are told and told by.
        "clock" | "config" | "error" | "runtime" | "telemetry" => 3,
        "node" => 4,
        "bin" => 6,
        _ => 5,
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    Sign(char),
}

/// A source file without its comments, texts and unit tests.
struct Source {
    path: PathBuf,
    tokens: Vec<Token>,
    code_lines: usize,
}

impl Source {
    fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let bare = without_comments_and_texts(text);
        let code_lines = bare.lines().filter(|line| !line.trim().is_empty()).count();
        Self {
            path: path.into(),
            tokens: tokens(&bare),
            code_lines,
        }
    }

    /// The module that the file is, from the crate's root.
    fn module(&self) -> Vec<String> {
        let under = self.path.iter().skip_while(|&part| part != "src").skip(1);
        let mut module: Vec<String> = under
            .map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        if module
            .last()
            .is_some_and(|last| last == "lib" || last == "mod")
        {
            module.pop();
        }
        module
    }

    /// Every path that is named, `use` trees spread out.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            match self.tokens[at] {
                Token::Word(_) => at = spread(&self.tokens, at, &[], &mut paths),
                _ => at += 1,
            }
        }
        paths
    }

    /// The modules of the crate that are named, from its root.
    fn named_modules(&self) -> BTreeSet<Vec<String>> {
        let own = self.module();
        let named = self.paths().into_iter().filter_map(|path| {
            let mut base = own.clone();
            let mut rest = path.as_slice();
            match path.first()?.as_str() {
                "crate" => base.clear(),
                "self" => {}
                "super" => {
                    while let Some(("super", tail)) = first(rest) {
                        base.pop();
                        rest = tail;
                    }
                    return Some([&base, rest].concat());
                }
                _ => return None,
            }
            Some([&base, &rest[1..]].concat())
        });
        named.filter(|path| !path.is_empty()).collect()
    }
}

fn first(path: &[String]) -> Option<(&str, &[String])> {
    path.split_first().map(|(head, tail)| (head.as_str(), tail))
}

/// Reads one path, or tree of paths, from `at` on; returns where it ends.
fn spread(tokens: &[Token], at: usize, before: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = at;
    loop {
        match tokens.get(at) {
            Some(Token::Word(word)) => path.push(word.clone()),
            Some(Token::Sign('{')) => {
                at += 1;
                while let Some(token) = tokens.get(at) {
                    match token {
                        Token::Sign('}') => {
                            at += 1;
                            break;
                        }
                        Token::Word(word) if word == "as" => at += 2,
                        Token::Word(_) => at = spread(tokens, at, &path, paths),
                        _ => at += 1,
                    }
                }
                return at;
            }
            _ => break,
        }
        at += 1;
        if tokens.get(at) != Some(&Token::Path) {
            break;
        }
        at += 1;
    }
    paths.push(path);
    at
}

fn tokens(bare: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = bare.chars().peekable();
    while let Some(char) = chars.next() {
        if char.is_alphanumeric() || char == '_' {
            let mut word = String::from(char);
            while let Some(next) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(next);
            }
            tokens.push(Token::Word(word));
        } else if char == ':' && chars.next_if_eq(&':').is_some() {
            tokens.push(Token::Path);
        } else if !char.is_whitespace() {
            tokens.push(Token::Sign(char));
        }
    }
    tokens
}

/// Blanks comments out, and empties texts and character literals; lines stay.
fn without_comments_and_texts(text: &str) -> String {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let after = |prefix: &str, end: &str, tail: &str| {
            let body = &tail[prefix.len()..];
            body.find(end)
                .map_or(tail.len(), |at| prefix.len() + at + end.len())
        };
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            after("/*", "*/", rest)
        } else if rest.starts_with("r#\"") {
            after("r#\"", "\"#", rest)
        } else if char == '"' {
            text_length(rest)
        } else if char == '\'' {
            character_length(rest)
        } else {
            bare.push(char);
            rest = &rest[char.len_utf8()..];
            continue;
        };
        let gone = &rest[..skipped];
        if !gone.starts_with('/') {
            bare.push_str("\"\"");
        }
        bare.extend(gone.chars().filter(|&char| char == '\n'));
        rest = &rest[skipped..];
    }
    bare
}

/// The length of the text literal at the start, its quotes included.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the character literal at the start, or of the mere quote of a
/// lifetime.
fn character_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars
            .find(|&(_, char)| char == '\'')
            .map_or(1, |(at, _)| at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Where a file names what lies above it.
fn upward(source: &Source) -> Vec<String> {
    let module = source.module();
    let Some(own) = module.first() else {
        return Vec::new();
    };
    let named = source.named_modules();
    let above = named.iter().filter(|path| {
        let is_module = path[0].chars().next().is_some_and(char::is_lowercase);
        is_module && floor(&path[0]) > floor(own)
    });
    above.map(|path| path.join("::")).collect()
}

/// Where a file of a pure floor names what is not.
fn impure(source: &Source) -> Vec<String> {
    let names = source.paths().into_iter().map(|path| path.join("::"));
    let is_impure = |name: &String| {
        IMPURE.iter().any(|impure| {
            let inside = format!("::{name}::").contains(&format!("::{impure}::"));
            // A crate's name counts at the front of a path alone.
            let is_crate = !impure.contains("::") && impure.starts_with(char::is_lowercase);
            inside && (!is_crate || name.starts_with(&format!("{impure}::")))
        })
    };
    names.filter(is_impure).collect()
}

/// Public signatures that show a dependency.
fn exposed(source: &Source) -> Vec<String> {
    let is_foreign = |path: &[String]| DEPENDENCIES.contains(&path[0].as_str());
    let foreign: BTreeSet<String> = source
        .paths()
        .into_iter()
        .filter(|path| path.len() > 1 && is_foreign(path))
        .filter_map(|path| path.last().cloned())
        .collect();
    let mut found = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if *token != Token::Word("pub".into())
            || source.tokens.get(at + 1) == Some(&Token::Sign('('))
        {
            continue;
        }
        let signature = signature(&source.tokens[at + 1..]);
        for (at, token) in signature.iter().enumerate() {
            let Token::Word(word) = token else { continue };
            let is_crate = DEPENDENCIES.contains(&word.as_str())
                && signature.get(at + 1) == Some(&Token::Path);
            if is_crate || foreign.contains(word) {
                let words = signature.iter().filter_map(|token| match token {
                    Token::Word(word) => Some(word.as_str()),
                    _ => None,
                });
                found.push(words.collect::<Vec<_>>().join(" "));
                break;
            }
        }
    }
    found
}

/// The tokens of an item that others see: up to its body, and the bodies of
/// enums and traits too.
fn signature(item: &[Token]) -> &[Token] {
    let head = |token: &Token| matches!(token, Token::Word(word) if !["async", "const", "unsafe"].contains(&word.as_str()));
    let kind = item.iter().find(|token| head(token));
    let is = |what: &str| kind == Some(&Token::Word(what.into()));
    let is_item = [
        "fn", "struct", "enum", "trait", "type", "static", "mod", "use",
    ]
    .iter()
    .any(|what| is(what));
    let has_open_body = is("enum") || is("trait") || is("use");
    let mut depth = 0;
    let mut end = 0;
    for token in item {
        match token {
            Token::Sign('{') if !has_open_body => break,
            Token::Sign('(' | '[' | '<' | '{') => depth += 1,
            Token::Sign(')' | ']' | '>' | '}') if depth == 0 => break,
            Token::Sign('}') if depth == 1 && has_open_body && !is("use") => break,
            Token::Sign(')' | ']' | '>' | '}') => depth -= 1,
            Token::Sign(';') if depth == 0 => break,
            Token::Sign(',') if depth == 0 && !is_item => break,
            // An arrow's head closes nothing.
            Token::Sign('-' | '=') => {
                depth += i32::from(item.get(end + 1) == Some(&Token::Sign('>')))
            }
            _ => {}
        }
        end += 1;
    }
    &item[..end]
}

/// Modules that name each other in a circle.
fn circle(sources: &[Source]) -> Option<String> {
    let names: BTreeSet<Vec<String>> = sources.iter().map(Source::module).collect();
    let mut below: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for source in sources {
        let own = source.module();
        let named = source.named_modules().into_iter().filter_map(|path| {
            let longest = (1..=path.len()).rev().map(|len| path[..len].to_vec());
            longest.into_iter().find(|path| names.contains(path))
        });
        let named =
            named.filter(|path| *path != own && !own.starts_with(path) && !path.starts_with(&own));
        below.insert(own.clone(), named.collect());
    }
    // What names nothing that is left is at the bottom; take it away.
    loop {
        let bottom = below.iter().find(|(_, named)| named.is_empty());
        let Some(bottom) = bottom.map(|(module, _)| module.clone()) else {
            break;
        };
        below.remove(&bottom);
        for named in below.values_mut() {
            named.remove(&bottom);
        }
    }
    let left: Vec<String> = below.keys().map(|module| module.join("::")).collect();
    (!left.is_empty()).then(|| left.join(", "))
}

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
                sources.push(Source::new(path.strip_prefix(root).unwrap(), &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn in_proto(source: &Source) -> bool {
    source
        .module()
        .first()
        .is_some_and(|module| module == "proto")
}

/// Everything that `check` finds, file by file.
fn findings(sources: &[Source], check: impl Fn(&Source) -> Vec<String>) -> String {
    let mut text = String::new();
    for source in sources {
        for finding in check(source) {
            let _ = writeln!(text, "{}: {finding}", source.path.display());
        }
    }
    text
}

#[test]
fn arrows_point_down() {
    let sources = sources("src");
    assert!(sources.len() > 30, "{} files", sources.len());
    let named: usize = sources
        .iter()
        .map(|source| source.named_modules().len())
        .sum();
    assert!(named > 200, "only {named} names of modules were found");
    assert_eq!(findings(&sources, upward), "");
    let proto: Vec<Source> = sources.into_iter().filter(in_proto).collect();
    assert_eq!(circle(&proto), None);
    let ring = self::sources("ring/src");
    let knows_us = |source: &Source| {
        let paths = source
            .paths()
            .into_iter()
            .filter(|path| path[0] == "ringlock");
        paths.map(|path| path.join("::")).collect()
    };
    assert_eq!(findings(&ring, knows_us), "");
}

#[test]
fn the_pure_floors_are_pure() {
    let proto: Vec<Source> = sources("src").into_iter().filter(in_proto).collect();
    assert!(proto.len() > 10, "{} files", proto.len());
    assert_eq!(findings(&proto, impure), "");
    assert_eq!(findings(&sources("ring/src"), impure), "");
}

#[test]
fn no_dependency_shows_in_a_public_signature() {
    for folder in ["src", "ring/src"] {
        assert_eq!(findings(&sources(folder), exposed), "");
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut sources: Vec<Source> = ["src", "ring/src"].into_iter().flat_map(sources).collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.code_lines));
    for source in sources.iter().take(10) {
        println!("{:>4} {}", source.code_lines, source.path.display());
    }
    assert_eq!(findings(&sources, too_long), "");
}

fn too_long(source: &Source) -> Vec<String> {
    let is_too_long = source.code_lines > MAX_LINES;
    let finding = format!("{} code lines", source.code_lines);
    is_too_long.then_some(finding).into_iter().collect()
}

#[test]
fn the_checks_find_what_they_are_made_for() {
    let source = |path: &str, text: &str| Source::new(path, text);

    let proto = source(
        "src/proto/attempt.rs",
        "use crate::{proto::time::Instant, router::Router as R};\n\
         // crate::keeper in a comment, \n\
         const TEXT: &str = \"crate::guard\";\n\
         fn f() { super::super::gate::open(); super::round::on() }\n\
         #[cfg(test)]\nmod tests { use crate::drive; }",
    );
    assert_eq!(upward(&proto), ["gate::open", "router::Router"]);
    let node = source(
        "src/node/redis/driver.rs",
        "use super::super::memory; use crate::clock;",
    );
    assert_eq!(upward(&node), [""; 0]);
    let node = source("src/node/redis.rs", "use super::{Node, super::held::Held};");
    assert_eq!(upward(&node).len(), 1);

    let pure = source(
        "src/proto/time.rs",
        "use std::{time::{Duration, Instant}, collections::BTreeMap};\n\
         fn f(rand: u8) -> crate::proto::time::Instant { rand::random() }\n\
         fn g<'a>(c: char) -> bool { c == '\"' && std::fs::exists() }",
    );
    assert_eq!(
        impure(&pure),
        ["std::time::Instant", "rand::random", "std::fs::exists"]
    );
    let hashed = source(
        "ring/src/ring.rs",
        "type T = std::collections::HashMap<u8, u8>;",
    );
    assert_eq!(impure(&hashed), ["std::collections::HashMap"]);

    let public = source(
        "src/node.rs",
        "use redis::Value as _; use redis::{Value, Client};\n\
         pub fn f(client: &Client) -> u8 { }\n\
         pub(crate) fn g(client: &Client) {}\n\
         pub struct S { pub a: u8, b: Client, pub c: Option<tokio::time::Instant> }\n\
         pub enum E { A(u8), B(Value) }\n\
         pub trait T { fn h(&self) -> Result<(), toml::de::Error>; }\n\
         pub fn fine(f: impl Fn(u8) -> u8) -> Vec<u8> { Client::new() }\n\
         pub use redis::Cmd;",
    );
    let found = exposed(&public);
    let starts: Vec<&str> = found
        .iter()
        .map(|found| found.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(starts, ["f", "Option", "E", "T", "redis"], "{found:?}");

    let a = || source("src/proto/a.rs", "use super::b::B;");
    let b = source("src/proto/b.rs", "use crate::proto::c;");
    let c = source("src/proto/c.rs", "fn f() { super::a::A::new() }");
    assert_eq!(
        circle(&[a(), b, c]).as_deref(),
        Some("proto::a, proto::b, proto::c")
    );
    let b = source("src/proto/b.rs", "use std::fmt;");
    assert_eq!(circle(&[a(), b]), None);

    let long = source(
        "src/x.rs",
        "//! A\n\nfn f() {\n    // B\n    g(\"a\n b\")\n}\n",
    );
    assert_eq!((long.code_lines, too_long(&long)), (4, Vec::new()));
    let long = source("src/x.rs", &"f();\n".repeat(MAX_LINES + 1));
    assert_eq!(too_long(&long), ["401 code lines"]);
}
