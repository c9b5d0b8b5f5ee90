//! The configuration: a TOML file, or the same built in code.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::{DEFAULT_VNODES, Format};
use serde::Deserialize;

use crate::proto::lease::{Ttl, TtlError};
use crate::proto::membership::topology::{LONGEST_SPAN, Node, Override, Topology, TopologyError};
use crate::proto::membership::view::View;

pub(crate) mod credentials;
#[cfg(feature = "redis")]
pub(crate) mod node_url;
mod password;
pub(crate) mod source_text;
mod span;
pub(crate) mod topology_diff;

pub use self::password::Password;
use self::source_text::append_source;

/// All settings of a router.
///
/// ```
/// let config: ringlock::Config = r#"
///     [router]
///     replicas = 1
///     ttl = "10s"
///
///     [[node]]
///     name = "a"
///     url = "redis://127.0.0.1:6379"
///
///     [[override]]
///     prefix = "billing/"
///     replicas = 1
/// "#.parse()?;
/// assert_eq!(config.nodes[0].name, "a");
/// # Ok::<(), ringlock::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// How locks are taken.
    #[serde(default)]
    pub router: RouterConfig,
    /// How keys are spread over the nodes.
    #[serde(default)]
    pub ring: RingConfig,
    /// The nodes.
    #[serde(default, rename = "node")]
    pub nodes: Vec<NodeConfig>,
    /// Replicas by prefix of the key.
    #[serde(default, rename = "override")]
    pub overrides: Vec<Override>,
    /// Certificates for `rediss://` nodes.
    #[serde(default)]
    pub tls: TlsConfig,
}

/// How locks are taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RouterConfig {
    /// Replicas of a key: 1 is sharded mode, 3 or 5 quorum mode.
    pub replicas: usize,
    /// The ttl of a lease without an explicit one.
    #[serde(with = "span")]
    pub ttl: Duration,
    /// The longest ttl. All routers of a cluster agree on it, and a change of
    /// membership waits for that long.
    #[serde(with = "span")]
    pub max_ttl: Duration,
    /// How long a router relies on a view that a majority has confirmed; all
    /// routers of a cluster agree on it.
    #[serde(with = "span")]
    pub view_lease: Duration,
    /// How long an acquire without an explicit wait keeps trying; `0s`: once.
    #[serde(with = "span")]
    pub wait: Duration,
    /// How long a lease is kept alive, at most.
    #[serde(with = "span")]
    pub max_hold: Duration,
    /// The number of consecutive grants of one key that a router's callers may have
    /// while other processes wait, at most 16. After that the router leaves the key
    /// to those for a moment. Zero counts as one.
    #[serde(alias = "hand_overs")]
    pub max_local_handoffs: u32,
    /// How long a node may take to answer about a lease, from 1ms to half of `ttl`.
    /// For a lease with a shorter ttl, half of that ttl is the limit. The default
    /// is 5 % of the lease's ttl, at least 50ms and at most 1s. Raise it if leases
    /// are short and machines so busy that healthy nodes answer later.
    #[serde(deserialize_with = "span::some")]
    pub node_timeout: Option<Duration>,
    /// How long [`connect`](crate::Router::connect) waits for enough nodes, without
    /// the wait of a first start. An attempt to connect to one node has nine tenths
    /// of it, and at least two seconds.
    #[serde(with = "span")]
    pub connect_timeout: Duration,
    /// The prefix of a key's name on the server; `""` shares keys with other
    /// Redlock clients.
    pub key_prefix: String,
    /// The prefix of the names under which ringlock keeps its own state on the
    /// server; a `!` follows it. Clusters that share servers need different
    /// namespaces.
    pub namespace: String,
    /// What to do with nodes that have no state.
    pub init: Init,
    /// What to do if the cluster's topology differs from the one configured here.
    pub on_mismatch: OnMismatch,
    /// The label that other clients see for this holder; the default is `host:pid`.
    pub label: Option<String>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            replicas: 1,
            ttl: Duration::from_secs(10),
            max_ttl: Duration::from_secs(30),
            view_lease: Duration::from_secs(10),
            wait: Duration::from_secs(10),
            max_hold: Duration::from_secs(3600),
            max_local_handoffs: MAX_LOCAL_HANDOFFS,
            node_timeout: None,
            connect_timeout: Duration::from_secs(5),
            key_prefix: "ringlock:".into(),
            namespace: "ringlock".into(),
            init: Init::default(),
            on_mismatch: OnMismatch::default(),
            label: None,
        }
    }
}

/// The maximum number of consecutive grants: more would gain little, and keep
/// others waiting longer.
const MAX_LOCAL_HANDOFFS: u32 = 16;

/// The shortest `max_hold`: a shorter lease would be over before its caller could
/// use it.
pub(crate) const LEAST_HOLD: Duration = Duration::from_millis(10);

/// The shortest node timeout.
const LEAST_NODE_TIMEOUT: Duration = Duration::from_millis(1);

impl RouterConfig {
    /// The prefix of the names of ringlock's own state.
    fn own_state(&self) -> String {
        format!("{}!", self.namespace)
    }

    /// The prefix that keys must not have, because their names on the server would
    /// be names of ringlock's own state. `None` if the key prefix rules that out.
    pub(crate) fn reserved_keys(&self) -> Option<String> {
        let own = self.own_state();
        own.strip_prefix(&self.key_prefix).map(Into::into)
    }
}

/// What to do if no node of the cluster has any state: it is new, or all nodes lost
/// their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Initialise it, and wait for `max_ttl` before the first grant: all earlier
    /// locks have expired by then.
    #[default]
    Wait,
    /// Initialise it at once: the operator guarantees that nothing was locked.
    Now,
    /// Refuse to connect.
    Never,
}

/// What to do if the cluster serves another topology than a router's configuration
/// describes. After a change of membership this is the case until the
/// configurations are updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// Use the served topology, and log the difference: the configured nodes are
    /// only the ones to ask.
    #[default]
    Follow,
    /// Refuse to connect.
    Refuse,
}

/// How keys are spread over the nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RingConfig {
    /// The ring's format: `xxh3`, `md5`, `crc32`, `ketama` or `nginx`.
    #[serde(deserialize_with = "format")]
    pub format: Format,
    /// Points on the ring per unit of weight.
    pub vnodes: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            format: Format::default(),
            vnodes: DEFAULT_VNODES,
        }
    }
}

/// One node.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Identity of the node: it determines the place on the ring.
    pub name: String,
    /// `redis://`, `rediss://`, `redis+sentinel://`, `unix://` or `memory://`, or
    /// the same with `valkey`; `${NAME}` stands for the environment variable `NAME`.
    pub url: String,
    /// The user of `password`; `None`: the default user.
    #[serde(default)]
    pub username: Option<String>,
    /// A password that may change, instead of one in the URL. In a file:
    /// `password_file = "/run/secrets/redis"`.
    #[serde(default, rename = "password_file")]
    pub password: Option<Password>,
    /// Share of the keys, relative to the other nodes'.
    #[serde(default = "one")]
    pub weight: u32,
    /// Failure domain: most of a key's replicas are outside any single one.
    #[serde(default)]
    pub zone: Option<String>,
    /// Machine: no two replicas of a key share one.
    #[serde(default)]
    pub host: Option<String>,
    /// The node whose place on the ring it has, because it replaced that node.
    #[serde(default)]
    pub anchor: Option<String>,
    /// The operator's guarantee that the server keeps every write through a restart
    /// (`appendonly yes`, `appendfsync always`), and that no replica takes its place:
    /// a promoted one lacks the last writes, and after a restart of its own nothing
    /// shows that it was one.
    #[serde(default)]
    pub durable: bool,
}

impl NodeConfig {
    /// A node of weight 1 without labels.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        let (name, url) = (name.into(), url.into());
        Self {
            name,
            url,
            username: None,
            password: None,
            weight: one(),
            zone: None,
            host: None,
            anchor: None,
            durable: false,
        }
    }
}

impl fmt::Debug for NodeConfig {
    /// Omits the URL: it may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            url: _,
            username,
            password,
            weight,
            zone,
            host,
            anchor,
            durable,
        } = self;
        f.debug_struct("NodeConfig")
            .field("name", name)
            .field("username", username)
            .field("password", password)
            .field("weight", weight)
            .field("zone", zone)
            .field("host", host)
            .field("anchor", anchor)
            .field("durable", durable)
            .finish_non_exhaustive()
    }
}

/// Certificates for `rediss://` nodes; PEM files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TlsConfig {
    /// CA certificates that servers are checked against, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate.
    pub certificate: Option<PathBuf>,
    /// The private key of the client's certificate.
    pub key: Option<PathBuf>,
}

/// An error of a configuration. Like [`Error`](crate::Error), `{:#}` shows the
/// reason in the same line.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(fmt = unread)]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: Arc<std::io::Error>,
    },
    /// The text is not a configuration.
    #[error("{}line {line}: {message}", origin(path.as_deref()))]
    Syntax {
        /// The file, if the text is from one.
        path: Option<PathBuf>,
        /// The line, from 1.
        line: usize,
        /// The problem in that line.
        message: String,
    },
    /// The nodes, the ring and the replicas do not fit together.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A default ttl that no lease can have.
    #[error(fmt = ttl_unfit)]
    Ttl(#[source] TtlError),
    /// A setting is out of range.
    #[error("{setting} = {value}: {remedy}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// A node's URL is invalid. The URL itself is not shown: it may contain a
    /// password.
    #[error("node {node}: its url {problem}")]
    Url {
        /// The node.
        node: String,
        /// The problem, and what to write instead.
        problem: String,
    },
}

fn unread(path: &Path, error: &Arc<std::io::Error>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cannot read {}", path.display())?;
    append_source(f, error)
}

fn ttl_unfit(error: &TtlError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("router.ttl is invalid")?;
    append_source(f, error)
}

fn origin(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!("{}: ", path.display()))
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line and the problem there.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: path.into(),
            error: Arc::new(error),
        })?;
        text.parse().map_err(|error| match error {
            ConfigError::Syntax { line, message, .. } => ConfigError::Syntax {
                path: Some(path.into()),
                line,
                message,
            },
            other => other,
        })
    }

    /// The topology that the configuration describes.
    pub(crate) fn topology(&self, address: impl Fn(&NodeConfig) -> String) -> Topology {
        let nodes = self.nodes.iter().map(|node| Node {
            name: node.name.clone(),
            address: address(node),
            weight: node.weight,
            zone: node.zone.clone(),
            host: node.host.clone(),
            anchor: node.anchor.clone(),
        });
        Topology {
            cluster: String::new(),
            nodes: nodes.collect(),
            format: self.ring.format,
            vnodes: self.ring.vnodes,
            replicas: self.router.replicas,
            overrides: self.overrides.clone(),
            max_ttl_ms: millis(self.router.max_ttl),
            view_lease_ms: millis(self.router.view_lease),
        }
        .with_key_prefix(&self.router.key_prefix)
        .canonical()
    }

    /// Finds contradictions, before any server is contacted.
    ///
    /// # Errors
    /// [`ConfigError`]: the first contradiction.
    pub fn check(&self) -> Result<(), ConfigError> {
        let RouterConfig {
            ttl,
            max_ttl,
            view_lease,
            namespace,
            ..
        } = &self.router;
        bounded("router.max_ttl", *max_ttl)?;
        bounded("router.view_lease", *view_lease)?;
        Ttl::new(*ttl, *max_ttl).map_err(ConfigError::Ttl)?;
        if self.router.max_local_handoffs > MAX_LOCAL_HANDOFFS {
            return Err(ConfigError::Setting {
                setting: "router.max_local_handoffs",
                value: self.router.max_local_handoffs.to_string(),
                remedy: "must be at most 16: other processes wait for that many handoffs",
            });
        }
        if self.router.max_hold < LEAST_HOLD {
            return Err(ConfigError::Setting {
                setting: "router.max_hold",
                value: format!("{:?}", self.router.max_hold),
                remedy: "must be at least 10ms: a shorter one ends a lease before it can be used",
            });
        }
        let node_timeouts = LEAST_NODE_TIMEOUT..=*ttl / 2;
        if let Some(value) = self.router.node_timeout
            && !node_timeouts.contains(&value)
        {
            return Err(ConfigError::Setting {
                setting: "router.node_timeout",
                value: format!("{value:?}"),
                remedy: "must be between 1ms and half of router.ttl",
            });
        }
        if self.nodes.is_empty() {
            return Err(ConfigError::Setting {
                setting: "node",
                value: "[]".into(),
                remedy: "name at least one: [[node]] with name and url",
            });
        }
        if namespace.is_empty() || namespace.contains(|char: char| char.is_whitespace()) {
            return Err(ConfigError::Setting {
                setting: "router.namespace",
                value: format!("{namespace:?}"),
                remedy: "must be a word without spaces: it names the keys of ringlock's own state",
            });
        }
        if self.router.key_prefix.starts_with(&self.router.own_state()) {
            return Err(ConfigError::Setting {
                setting: "router.key_prefix",
                value: format!("{:?}", self.router.key_prefix),
                remedy: "must not begin with the namespace followed by !: those keys are ringlock's own state",
            });
        }
        // A trial view: it checks every rule of a view where the rule is defined.
        let topology = self.topology(|_| String::new());
        let nonce = |node: &Node| (node.name.clone(), "trial".into());
        let nonces = topology.nodes.iter().map(nonce).collect();
        View::stable(1, topology, &nonces)?;
        Ok(())
    }
}

/// Refuses a max_ttl or view_lease out of range.
pub(crate) fn bounded(setting: &'static str, value: Duration) -> Result<(), ConfigError> {
    if (Duration::from_millis(100)..=LONGEST_SPAN).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Setting {
        setting,
        value: format!("{value:?}"),
        remedy: "must be between 100ms and 24h",
    })
}

impl std::str::FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).unwrap_or(text).matches('\n').count() + 1;
            ConfigError::Syntax {
                path: None,
                line,
                message: error.message().into(),
            }
        })
    }
}

/// Replaces every `${NAME}` by the result of `lookup` for `NAME`.
pub(crate) fn substitute(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after
            .split_once('}')
            .ok_or("has a ${ without its }: write ${NAME}")?;
        let is_name = |char: char| char == '_' || char.is_ascii_alphanumeric();
        if name.is_empty() || !name.chars().all(is_name) {
            // The text may be part of a password: it is not shown.
            return Err("has a ${…} without a valid variable name: write ${NAME}".into());
        }
        let value = lookup(name)
            .ok_or_else(|| format!("names the environment variable {name}, which is not set"))?;
        out.push_str(before);
        out.push_str(&value);
        rest = tail;
    }
    Ok(out + rest)
}

/// The first name that occurs twice, so that this clear error is reported before
/// any other.
pub(crate) fn first_duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeMap::new();
    names
        .into_iter()
        .find(|name| seen.insert(*name, ()).is_some())
}

fn one() -> u32 {
    1
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn format<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Format, D::Error> {
    String::deserialize(input)?
        .parse()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match text.parse::<Config>().and_then(|config| config.check()) {
            Ok(()) => panic!("accepted: {text}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config: Config = "[[node]]\nname = \"a\"\nurl = \"memory://a\""
            .parse()
            .unwrap();
        config.check().unwrap();
        assert_eq!(config.router.ttl, Duration::from_secs(10));
        assert_eq!(config.router.max_ttl, Duration::from_secs(30));
        assert_eq!((config.router.replicas, config.ring.vnodes), (1, 160));
        assert_eq!(config.router.init, Init::Wait);
    }

    #[test]
    fn errors_name_the_line_and_the_value() {
        assert!(error("[router]\nreplica = 3").starts_with("line 2: unknown field `replica`"));
        let duration = error("[router]\nwait = \"1s\"\nttl = \"ten\"");
        assert!(
            duration.starts_with("line 3: \"ten\" is not a duration"),
            "{duration}"
        );
        assert!(error("[ring]\nformat = \"sha\"").starts_with("line 2: "));
        assert!(error("[router]\nttl = 10").contains("line 2"));
    }

    #[test]
    fn contradictions_are_found_before_connecting() {
        let nodes = "[[node]]\nname = \"a\"\nurl = \"x\"\n[[node]]\nname = \"b\"\nurl = \"x\"\n";
        assert!(error("").contains("node"));
        assert!(error(&format!("{nodes}{nodes}")).contains("\"a\""));
        assert!(error(&format!("[router]\nreplicas = 2\n{nodes}")).contains("odd"));
        assert!(error(&format!("[router]\nreplicas = 3\n{nodes}")).contains('3'));
        assert!(error(&format!("[router]\nttl = \"31s\"\n{nodes}")).contains("max_ttl"));
        assert!(error(&format!("[router]\nttl = \"0s\"\n{nodes}")).contains("too short"));
        assert!(error(&format!("[router]\nmax_ttl = \"9ms\"\n{nodes}")).contains("100ms"));
        assert!(error(&format!("[router]\nhand_overs = 17\n{nodes}")).contains("at most 16"));
        let node_timeout = |value| format!("[router]\nnode_timeout = \"{value}\"\n{nodes}");
        for value in ["0s", "999us", "5001ms", "500000000years"] {
            assert!(error(&node_timeout(value)).contains("node_timeout"));
        }
        for value in ["1ms", "5s"] {
            let config: Config = node_timeout(value).parse().unwrap();
            config.check().unwrap();
            assert!(config.router.node_timeout.is_some());
        }
        assert!(error(&format!("[router]\nmax_hold = \"9ms\"\n{nodes}")).contains("max_hold"));
        assert!(error(&format!("[router]\nnamespace = \"\"\n{nodes}")).contains("namespace"));
        let own = "[router]\nkey_prefix = \"ringlock!m\"\n";
        assert!(error(&format!("{own}{nodes}")).contains("key_prefix"));
        assert!(error(&format!("{nodes}weight = 0")).contains("weight"));
    }

    #[test]
    fn secrets_come_from_the_environment_and_stay_unseen() {
        let lookup = |name: &str| (name == "PW").then(|| "s3cret".to_owned());
        assert_eq!(
            substitute("redis://:${PW}@h", lookup).unwrap(),
            "redis://:s3cret@h"
        );
        assert!(substitute("${NO}", lookup).unwrap_err().contains("NO"));
        assert!(substitute("${PW", lookup).is_err());
        let node = NodeConfig::new("a", "redis://:s3cret@h");
        assert!(!format!("{node:?}").contains("s3cret"));
    }
}
