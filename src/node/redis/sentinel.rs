//! Finding the primary of a service: its sentinels know.
//!
//! They are asked at every connection, one after the other, and whoever they
//! name is checked as every server is. A server that was promoted is another
//! incarnation: it has to be let in again before it grants anything.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::address::{Address, Host, Place};
use super::connect::Line;
use super::decode::misfit;
use super::encode::command;
use super::refusal::ErrorReply;
use super::resp::{Piece, Pieces};
use crate::clock;
use crate::config::TlsConfig;
use crate::proto::wire::{NodeError, NodeErrorKind};

/// How long all sentinels of a service may take together: connecting has to
/// leave time for the primary, which gets as long and longer.
const LOOK_LIMIT: Duration = Duration::from_millis(800);

/// Sentinels that a service may have: with more, none would have the time to
/// answer.
const MAX_SENTINELS: usize = 9;

/// The port of a sentinel that names none.
const PORT: u16 = 26379;

/// A primary that is known to sentinels by name.
pub(super) struct Service {
    name: String,
    sentinels: Vec<Address>,
    /// Which of them answered last: it is asked first.
    last: AtomicUsize,
    is_tls: bool,
}

impl Service {
    /// Parses what follows `redis+sentinel://`, or `rediss+sentinel://`, as the
    /// address of a node.
    pub(super) fn parse(scheme: &str, rest: &str, tls: &TlsConfig) -> Result<Address, String> {
        const HELP: &str = "write redis+sentinel://[user:password@]host[:port],…/service[/db]";
        let malformed = || format!("is malformed: {HELP}");
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        let (name, database) = path.split_once('/').unwrap_or((path, "0"));
        let is_word = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(format!("names no service: {HELP}"));
        }
        let hosts: Vec<String> = hosts.split(',').map(with_port).collect();
        if hosts.len() > MAX_SENTINELS {
            return Err(format!(
                "names {} sentinels: {MAX_SENTINELS} are enough",
                hosts.len()
            ));
        }
        let sentinel_login = sentinel_login(query)?;
        let parse = |login: &str, host: &str, database: &str| {
            let url = format!("{scheme}://{login}{host}/{database}");
            Address::parse(&url, tls).map_err(|_| malformed())
        };
        let sentinels = hosts.iter().map(|host| parse(&sentinel_login, host, "0"));
        let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
        let mut address = parse(&login, &hosts[0], database)?;
        address.place = Place::Service(Self {
            name: name.into(),
            sentinels,
            last: AtomicUsize::new(0),
            is_tls: scheme == "rediss",
        });
        Ok(address)
    }

    /// Where the primary is now.
    pub(super) async fn primary(&self) -> Result<Place, NodeError> {
        let count = self.sentinels.len();
        let share = LOOK_LIMIT / u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.last.load(Ordering::Relaxed);
        let mut problems = Vec::new();
        for index in (0..count).map(|offset| (first + offset) % count) {
            let sentinel = &self.sentinels[index];
            let asked = clock::within(Some(clock::now() + share), self.ask(sentinel)).await;
            match asked.unwrap_or_else(|| Err(late(sentinel))) {
                Ok(place) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(place);
                }
                Err(problem) => problems.push(problem),
            }
        }
        Err(self.unknown(&problems))
    }

    async fn ask(&self, sentinel: &Address) -> Result<Place, NodeError> {
        let mut line = Line::open_at(sentinel, &sentinel.place).await?;
        let question = [
            b"SENTINEL",
            &b"GET-MASTER-ADDR-BY-NAME"[..],
            self.name.as_bytes(),
        ];
        let answer = line.ask(|out| command(out, &question), 1).await?;
        let unfit = |problem: &str| {
            let message = format!("{sentinel} {problem}");
            Err(NodeError::new(NodeErrorKind::Unsuitable, message))
        };
        let mut pieces = Pieces::of(&answer);
        match pieces.next() {
            Some(Piece::List(2)) => {
                let mut text = || Some(String::from_utf8_lossy(pieces.bulk()?).into_owned());
                let (host, port) = (text(), text().and_then(|port| port.parse().ok()));
                match (host, port) {
                    (Some(host), Some(port)) if self.is_tls => Ok(Place::Tls { host, port }),
                    (Some(host), Some(port)) => Ok(Place::Tcp { host, port }),
                    _ => Err(misfit("SENTINEL")),
                }
            }
            Some(Piece::Nil) => unfit(&format!(
                "knows no service {:?}: correct the url",
                self.name
            )),
            Some(Piece::Error(line)) => match ErrorReply::of(line) {
                error if matches!(error.code, "NOAUTH" | "NOPERM") => {
                    let remedy = "correct sentinel_user and sentinel_password in the url";
                    let message =
                        format!("{sentinel} refuses to answer: {remedy} ({})", error.code);
                    Err(NodeError::new(NodeErrorKind::Denied, message))
                }
                _ => unfit("is no sentinel: name those, or write redis://"),
            },
            _ => Err(misfit("SENTINEL")),
        }
    }

    /// What can only be that way is told as such; what may pass is an outage.
    fn unknown(&self, problems: &[NodeError]) -> NodeError {
        let may_pass = |problem: &NodeError| {
            !matches!(
                problem.kind(),
                NodeErrorKind::Unsuitable | NodeErrorKind::Denied
            )
        };
        let kind = match problems {
            [first, ..] if !problems.iter().any(may_pass) => first.kind(),
            _ => NodeErrorKind::Unreachable,
        };
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let (name, told) = (&self.name, told.join("; "));
        NodeError::new(kind, format!("no sentinel tells where {name} is: {told}"))
    }
}

impl fmt::Display for Service {
    /// As a URL, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        write!(f, "{scheme}+sentinel://")?;
        for (index, sentinel) in self.sentinels.iter().enumerate() {
            if let Place::Tcp { host, port } | Place::Tls { host, port } = &sentinel.place {
                let comma = if index == 0 { "" } else { "," };
                write!(f, "{comma}{}:{port}", Host(host))?;
            }
        }
        write!(f, "/{}", self.name)
    }
}

fn with_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => host.into(),
        _ => format!("{host}:{PORT}"),
    }
}

/// The login that a URL's query has for the sentinels, as URLs have it before
/// the host.
fn sentinel_login(query: &str) -> Result<String, String> {
    let (mut user, mut password) = ("", None);
    for field in query.split('&').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_password", value)) => password = Some(value),
            _ => {
                return Err(
                    "has a query that is none of ?sentinel_user=…&sentinel_password=…".into(),
                );
            }
        }
    }
    // What may stand in a query and not before a host.
    let plain = |text: &str| {
        text.replace('@', "%40")
            .replace(':', "%3A")
            .replace('/', "%2F")
    };
    match password {
        Some(password) => Ok(format!("{}:{}@", plain(user), plain(password))),
        None if user.is_empty() => Ok(String::new()),
        None => Err("has a sentinel_user without its sentinel_password".into()),
    }
}

fn late(sentinel: &Address) -> NodeError {
    let message = format!("{sentinel} did not answer in time");
    NodeError::new(NodeErrorKind::Timeout, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &TlsConfig::default())
    }

    #[test]
    fn addresses_of_services() {
        for (url, shown) in [
            ("redis+sentinel://h/main", "redis+sentinel://h:26379/main"),
            (
                "redis+sentinel://me:s3cret@a:1,[::1],c/my-db.1/3?sentinel_password=s3cret",
                "redis+sentinel://a:1,[::1]:26379,c:26379/my-db.1/3",
            ),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(parse(shown).unwrap().to_string(), shown);
        }
        let url = "redis+sentinel://me:pw@h,i/m?sentinel_user=you&sentinel_password=a@b";
        let address = parse(url).unwrap();
        assert_eq!(address.username.as_deref(), Some("me"));
        let Place::Service(service) = &address.place else {
            panic!("{address}");
        };
        for sentinel in &service.sentinels {
            let password = sentinel.password.as_ref().unwrap();
            assert_eq!(sentinel.username.as_deref(), Some("you"));
            assert_eq!(password.get().as_deref(), Ok("a@b"));
        }
    }

    #[test]
    fn malformed_ones_say_what_to_write_and_keep_secrets() {
        for url in [
            "redis+sentinel://:s3cret@h:26379",
            "redis+sentinel://:s3cret@h:26379/",
            "redis+sentinel://:s3cret@h:26379/a b",
            "redis+sentinel://:s3cret@h:port/main",
            "redis+sentinel://:s3cret@h,,i/main",
            "redis+sentinel://:s3cret@/main",
            "redis+sentinel://:s3cret@h/main/x",
        ] {
            let problem = parse(url).err().unwrap();
            let is_told = problem.contains("redis+sentinel://") && !problem.contains("s3cret");
            assert!(is_told, "{url}: {problem}");
        }
        for url in [
            "h/m?sentinel_user=me",
            "h/m?password=s3cret",
            "1,2,3,4,5,6,7,8,9,0/m",
        ] {
            let problem = parse(&format!("redis+sentinel://{url}")).err().unwrap();
            assert!(problem.contains("sentinel") && !problem.contains("s3cret"));
        }
    }
}
