//! The URL of a node. It is parsed and printed only here.
//!
//! Printed without its logins it is the address in views and messages, in the form
//! that 0.1 wrote: `redis://`, `rediss://`, `unix://` and `redis+sentinel://`,
//! independent of the scheme in the input. The printed text, with or without
//! logins, parses to the same URL again.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// The default port of a server.
const PORT: u16 = 6379;

/// The default port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// The maximum number of sentinels of a service: each is asked only if those before
/// it have not answered.
const MAX_SENTINELS: usize = 9;

const HELP: &str = "write redis://[user:password@]host[:port][/db], rediss://…, unix:///path[?user=…&pass=…&db=…], redis+sentinel://… or memory://";
const SENTINEL_HELP: &str = "write redis+sentinel://[user:password@]host[:port],…/service[/db][?sentinel_user=…&sentinel_password=…]";

/// A parsed URL of a node that is a server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NodeUrl {
    pub(crate) place: Place,
    pub(crate) login: Option<Login>,
    pub(crate) database: u64,
}

/// The location of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host {
        at: Endpoint,
        is_tls: bool,
    },
    Socket(PathBuf),
    /// The location that the sentinels report.
    Service {
        name: String,
        sentinels: Vec<Endpoint>,
        /// The login at the sentinels.
        login: Option<Login>,
        is_tls: bool,
    },
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A name or an address; IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The login at a server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// `None`: the default user.
    pub(crate) user: Option<String>,
    /// May be empty: `redis://me@host` names a user without a password.
    pub(crate) password: String,
}

impl NodeUrl {
    /// Parses a URL of one of the schemes that a server may have.
    ///
    /// # Errors
    /// The problem, as the tail of a sentence about the URL. No part of the URL is
    /// shown, because it may contain a password.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_matches(|char: char| char.is_ascii_whitespace());
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("has no scheme: {HELP}"))?;
        let (base, of_service) = match scheme.strip_suffix("+sentinel") {
            Some(base) => (base, true),
            None => (scheme, false),
        };
        let is_tls = match base {
            "redis" | "valkey" => Some(false),
            "rediss" | "valkeys" if cfg!(feature = "tls") => Some(true),
            "rediss" | "valkeys" => return Err("needs the feature `tls`".into()),
            "unix" | "redis+unix" | "valkey+unix" if !of_service => None,
            _ => return Err(unknown_scheme(scheme)),
        };
        if rest.ends_with("#insecure") {
            return Err("has #insecure, and ringlock always verifies certificates: name the server's authority as tls.ca".into());
        }
        if rest.contains('#') {
            return Err(
                "has a fragment (#…), which ringlock does not support: write %23 for a #".into(),
            );
        }
        if rest.chars().any(char::is_control) {
            return Err("has a control character: write it as %0A, and so on".into());
        }
        match is_tls {
            Some(is_tls) if of_service => Self::service(rest, is_tls),
            Some(is_tls) => Self::host(rest, is_tls),
            None => Self::socket(rest),
        }
    }

    fn host(rest: &str, is_tls: bool) -> Result<Self, String> {
        let url = parse_authority(rest).ok_or_else(|| format!("is malformed: {HELP}"))?;
        let at = endpoint(&url, PORT).ok_or_else(|| format!("names no host: {HELP}"))?;
        let fields = Fields::of(url.query().unwrap_or_default(), &["protocol"], HELP)?;
        check_protocol(&fields)?;
        Ok(Self {
            place: Place::Host { at, is_tls },
            login: login(&url)?,
            database: database(url.path())?,
        })
    }

    fn socket(rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("localhost").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let bytes: Vec<u8> = percent_decode_str(path).collect();
        if !path.starts_with('/') || bytes.contains(&0) {
            return Err(format!("names no absolute path: {HELP}"));
        }
        let fields = Fields::of(query, &["user", "pass", "db", "protocol"], HELP)?;
        check_protocol(&fields)?;
        // Decoded like form fields, as the crate `redis` does.
        let text = |name| {
            let value = fields.get(name).map(|value| value.replace('+', " "));
            value.map(|value| decoded(&value)).transpose()
        };
        Ok(Self {
            place: Place::Socket(OsString::from_vec(bytes).into()),
            login: Login::of(text("user")?, text("pass")?),
            database: database(fields.get("db").unwrap_or_default())?,
        })
    }

    fn service(rest: &str, is_tls: bool) -> Result<Self, String> {
        let malformed = || format!("is malformed: {SENTINEL_HELP}");
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (own, hosts) = match authority.rsplit_once('@') {
            Some((own, hosts)) => (Some(own), hosts),
            None => (None, authority),
        };
        let (name, number) = path.split_once('/').unwrap_or((path, ""));
        let is_word = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(format!("names no service: {SENTINEL_HELP}"));
        }
        let count = hosts.split(',').count();
        if count > MAX_SENTINELS {
            return Err(format!(
                "names {count} sentinels: {MAX_SENTINELS} are enough"
            ));
        }
        let sentinel = |host| endpoint(&parse_authority(host)?, SENTINEL_PORT);
        let sentinels: Option<Vec<_>> = hosts.split(',').map(sentinel).collect();
        let own = own.map(|own| parse_authority(&format!("{own}@host")).ok_or_else(malformed));
        let known = ["sentinel_user", "sentinel_password", "protocol"];
        let fields = Fields::of(query, &known, SENTINEL_HELP)?;
        check_protocol(&fields)?;
        let text = |name| fields.get(name).map(decoded).transpose();
        let (user, password) = (text("sentinel_user")?, text("sentinel_password")?);
        if password.is_none() && user.is_some() {
            return Err("has a sentinel_user without its sentinel_password".into());
        }
        Ok(Self {
            place: Place::Service {
                name: name.into(),
                sentinels: sentinels.ok_or_else(malformed)?,
                login: Login::of(user, password),
                is_tls,
            },
            login: own.transpose()?.as_ref().map_or(Ok(None), login)?,
            database: database(number).map_err(|_| malformed())?,
        })
    }

    /// Copies the logins that `other` has and this one lacks. True: there was one.
    pub(crate) fn log_in_as(&mut self, other: &Self) -> bool {
        let mut is_changed = false;
        let mut take = |own: &mut Option<Login>, other: &Option<Login>| {
            if own.is_none() && other.is_some() {
                own.clone_from(other);
                is_changed = true;
            }
        };
        take(&mut self.login, &other.login);
        if let (Place::Service { login: own, .. }, Place::Service { login: other, .. }) =
            (&mut self.place, &other.place)
        {
            take(own, other);
        }
        is_changed
    }

    /// The whole URL. It contains passwords: do not show it.
    pub(crate) fn with_logins(&self) -> String {
        self.print(true)
    }

    fn print(&self, with_logins: bool) -> String {
        let login = self.login.as_ref().filter(|_| with_logins);
        let mut text = String::new();
        let mut query = Vec::new();
        match &self.place {
            Place::Host { at, is_tls } => {
                text.push_str(if *is_tls { "rediss://" } else { "redis://" });
                text.extend(login.map(Login::in_authority));
                text.push_str(&at.to_string());
            }
            Place::Socket(path) => {
                text.push_str("unix://");
                text.push_str(&printed(path));
            }
            Place::Service {
                name,
                sentinels,
                login: at_sentinels,
                is_tls,
            } => {
                let scheme = if *is_tls { "rediss" } else { "redis" };
                text = format!("{scheme}+sentinel://");
                text.extend(login.map(Login::in_authority));
                let hosts: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
                text.push_str(&hosts.join(","));
                text.push('/');
                text.push_str(name);
                let at_sentinels = at_sentinels.as_ref().filter(|_| with_logins);
                let names = ["sentinel_user", "sentinel_password"];
                query.extend(at_sentinels.map(|login| login.in_query(names)));
            }
        }
        match &self.place {
            Place::Socket(_) => {
                let number = (self.database != 0).then(|| format!("db={}", self.database));
                query.extend(number);
                query.extend(login.map(|login| login.in_query(["user", "pass"])));
            }
            _ if self.database != 0 => text.push_str(&format!("/{}", self.database)),
            _ => {}
        }
        if !query.is_empty() {
            text.push('?');
            text.push_str(&query.join("&"));
        }
        text
    }
}

impl fmt::Display for NodeUrl {
    /// The address: without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(false))
    }
}

impl fmt::Debug for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeUrl").field(&self.to_string()).finish()
    }
}

impl fmt::Debug for Login {
    /// Shows only the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Login {
    /// `None` if neither is given: an empty user is the default user, and an empty
    /// password of that user is none.
    fn of(user: Option<String>, password: Option<String>) -> Option<Self> {
        let user = user.filter(|user| !user.is_empty());
        let password = password.unwrap_or_default();
        (user.is_some() || !password.is_empty()).then_some(Self { user, password })
    }

    fn in_authority(&self) -> String {
        let user = self.user.as_deref().unwrap_or_default();
        format!("{}:{}@", encoded(user), encoded(&self.password))
    }

    fn in_query(&self, [user, password]: [&str; 2]) -> String {
        let own = self.user.as_deref().map(encoded);
        let own = own.map_or_else(String::new, |name| format!("{user}={name}&"));
        format!("{own}{password}={}", encoded(&self.password))
    }
}

/// The fields of a query, by name.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    /// A field that is not `known` may be a password under another name: it is
    /// refused, not ignored.
    fn of(query: &'a str, known: &[&str], help: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            if !known.contains(&name) {
                return Err(format!(
                    "has a query (?…) with other fields than {}: {help}",
                    known.join(", ")
                ));
            }
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(format!("has {name} twice: {help}"));
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| *value)
    }
}

/// Other clients have this field in their URLs; ringlock chooses the protocol
/// itself.
fn check_protocol(fields: &Fields<'_>) -> Result<(), String> {
    match fields.get("protocol") {
        None | Some("2" | "resp2" | "3" | "resp3") => Ok(()),
        Some(_) => Err("has a protocol that is neither resp2 nor resp3".into()),
    }
}

fn unknown_scheme(scheme: &str) -> String {
    // Shown only if it can be a scheme: it may be a password.
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'+';
    if scheme.bytes().all(is_word) && scheme.len() < 16 {
        return format!("has the unknown scheme {scheme:?}: {HELP}");
    }
    format!("has an unknown scheme: {HELP}")
}

fn parse_authority(rest: &str) -> Option<Url> {
    // One scheme for all: the parser treats schemes that it knows differently.
    Url::parse(&format!("redis://{rest}")).ok()
}

fn endpoint(url: &Url, port: u16) -> Option<Endpoint> {
    let host = match url.host()? {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    // Servers can listen on these addresses, but clients cannot connect to them.
    let is_none = host.is_empty() || host == "0.0.0.0" || host == "::";
    (!is_none).then(|| Endpoint {
        host,
        port: url.port().unwrap_or(port),
    })
}

fn login(url: &Url) -> Result<Option<Login>, String> {
    let user = decoded(url.username())?;
    let password = url.password().map(decoded).transpose()?;
    Ok(Login::of(Some(user), password))
}

fn database(text: &str) -> Result<u64, String> {
    match text.trim_matches('/') {
        "" => Ok(0),
        number => number
            .parse()
            .map_err(|_| format!("has a database that is not a number: {HELP}")),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into)
        .map_err(|_| "has a user or a password that is not UTF-8".into())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A path in URL form: unchanged except for characters with another meaning there.
fn printed(path: &Path) -> String {
    let mut text = String::new();
    let encode = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "%{byte:02X}");
        }
    };
    let bytes = path.as_os_str().as_bytes();
    let ends_blank = bytes.last() == Some(&b' ');
    let bytes = bytes.strip_suffix(b" ").unwrap_or(bytes);
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            // `${` would name an environment variable.
            if char.is_control() || matches!(char, '%' | '?' | '#' | '{') {
                encode(&mut text, char.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(char);
            }
        }
        encode(&mut text, chunk.invalid());
    }
    if ends_blank {
        encode(&mut text, b" ");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> NodeUrl {
        NodeUrl::parse(url).unwrap_or_else(|problem| panic!("{url}: {problem}"))
    }

    fn login(user: Option<&str>, password: &str) -> Option<Login> {
        Some(Login {
            user: user.map(Into::into),
            password: password.into(),
        })
    }

    #[test]
    fn every_scheme_is_printed_as_0_1_wrote_it() {
        for (url, shown) in [
            ("redis://h", "redis://h:6379"),
            ("valkey://h:1/3", "redis://h:1/3"),
            ("redis://[::1]:7/2/", "redis://[::1]:7/2"),
            ("redis://h?protocol=resp3", "redis://h:6379"),
            (" redis://h:1\n", "redis://h:1"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+unix:///s?db=5&user=me", "unix:///s?db=5"),
            ("valkey+unix:///a b/ü$x.sock", "unix:///a b/ü$x.sock"),
            ("redis+sentinel://h/main", "redis+sentinel://h:26379/main"),
            (
                "valkey+sentinel://me:s3cret@a:1,[::1],c/my-db.1/3?sentinel_password=s3cret",
                "redis+sentinel://a:1,[::1]:26379,c:26379/my-db.1/3",
            ),
        ] {
            assert_eq!(parse(url).to_string(), shown);
            assert_eq!(parse(shown).to_string(), shown);
            assert!(!format!("{:?}", parse(url)).contains("s3cret"));
        }
        if cfg!(feature = "tls") {
            assert_eq!(parse("valkeys://h").to_string(), "rediss://h:6379");
            let service = parse("valkeys+sentinel://h/m").to_string();
            assert_eq!(service, "rediss+sentinel://h:26379/m");
        }
    }

    #[test]
    fn no_login_is_dropped() {
        for (url, expected) in [
            ("redis://h", None),
            ("redis://@h", None),
            ("redis://:@h", None),
            ("redis://bob@h", login(Some("bob"), "")),
            ("redis://bob:@h", login(Some("bob"), "")),
            ("redis://:pw@h", login(None, "pw")),
            ("redis://b%40b:p%2Fw@h", login(Some("b@b"), "p/w")),
            ("redis://bob:p@ss@h", login(Some("bob"), "p@ss")),
            ("redis://bob:a+b@h", login(Some("bob"), "a+b")),
            ("unix:///s?user=bob", login(Some("bob"), "")),
            ("unix:///s?user=bob&pass=", login(Some("bob"), "")),
            ("unix:///s?pass=a%2Bb+c", login(None, "a+b c")),
            ("unix:///s?user=&pass=pw", login(None, "pw")),
            ("redis+sentinel://bob@h/m", login(Some("bob"), "")),
            ("redis+sentinel://bob:@h/m", login(Some("bob"), "")),
        ] {
            assert!(parse(url).login == expected, "{url}");
            assert!(parse(&parse(url).with_logins()).login == expected, "{url}");
        }
        let at_sentinels =
            |query: &str| match parse(&format!("redis+sentinel://h,i/m?{query}")).place {
                Place::Service { login, .. } => login,
                _ => panic!("{query}"),
            };
        let you = at_sentinels("sentinel_user=you&sentinel_password=a@b+c");
        assert!(you == login(Some("you"), "a@b+c"));
        let blank = at_sentinels("sentinel_user=you&sentinel_password=");
        assert!(blank == login(Some("you"), ""));
        assert!(at_sentinels("sentinel_password=pw") == login(None, "pw"));
    }

    #[test]
    fn problems_say_what_to_write_and_keep_secrets() {
        for (url, expected) in [
            ("", "redis://"),
            ("localhost:6379", "redis://"),
            ("http://h", "unknown scheme \"http\""),
            ("s3cret-s3cret-s3cret://h", "an unknown scheme"),
            ("redis://:s3cret@h:port", "redis://"),
            ("redis://:s3cret@", "redis://"),
            ("redis://:s3cret@0.0.0.0", "names no host"),
            ("redis://:s3cret@h/x", "database"),
            ("redis://:s3cret@h/-1", "database"),
            ("redis://:s3cret@h#insecure", "tls.ca"),
            ("redis://:s3#cret@h", "%23"),
            ("redis://:s3\ncret@h", "%0A"),
            ("redis://:%FF@h", "UTF-8"),
            ("redis://h?password=s3cret", "redis://"),
            ("redis://h?protocol=s3cret", "resp3"),
            ("unix://s3cret", "unix:///path"),
            ("unix:///s%00", "unix:///path"),
            ("unix:///s?password=s3cret", "pass="),
            ("unix:///s?pass=s3cret&pass=s3cret", "pass twice"),
            ("unix+sentinel://:s3cret@h/m", "unknown scheme"),
            ("redis+sentinel://:s3cret@h:26379", "service"),
            ("redis+sentinel://:s3cret@h:26379/a b", "service"),
            ("redis+sentinel://:s3cret@h:port/main", "redis+sentinel://"),
            ("redis+sentinel://:s3cret@h,,i/main", "redis+sentinel://"),
            ("redis+sentinel://:s3cret@/main", "redis+sentinel://"),
            ("redis+sentinel://:s3cret@h/main/x", "redis+sentinel://"),
            (
                "redis+sentinel://h/m?sentinel_user=s3cret",
                "sentinel_password",
            ),
            ("redis+sentinel://h/m?password=s3cret", "sentinel_password"),
            ("redis+sentinel://1,2,3,4,5,6,7,8,9,0/m", "9 are enough"),
        ] {
            let problem = NodeUrl::parse(url).err().unwrap_or_else(|| panic!("{url}"));
            let is_reported = problem.contains(expected) && !problem.contains("s3cret");
            assert!(is_reported, "{url}: {problem}");
        }
    }

    #[test]
    fn odd_paths_survive() {
        for (path, url) in [
            (&b"/tmp/a%41"[..], "unix:///tmp/a%2541"),
            (b"/tmp/a?b#c", "unix:///tmp/a%3Fb%23c"),
            (b"/tmp/a b ", "unix:///tmp/a b%20"),
            (b"/tmp/${HOME}", "unix:///tmp/$%7BHOME}"),
            (b"/tmp/\xffx\n", "unix:///tmp/%FFx%0A"),
        ] {
            let parsed = parse(url);
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            assert!(parsed.place == Place::Socket(path));
            assert_eq!(parsed.to_string(), url);
        }
    }

    fn endpoints() -> impl Strategy<Value = Endpoint> {
        let host = prop_oneof![
            "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}".prop_filter("it is none", |host| host != "0.0.0.0"),
            any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
        ];
        let is_one = |host: &String| host != "0.0.0.0" && host != "::";
        let host = host.prop_filter("nobody is there", is_one);
        (host, any::<u16>()).prop_map(|(host, port)| Endpoint { host, port })
    }

    fn logins() -> impl Strategy<Value = Option<Login>> {
        let parts = (
            proptest::option::of(any::<String>()),
            proptest::option::of(any::<String>()),
        );
        parts.prop_map(|(user, password)| Login::of(user, password))
    }

    fn places() -> impl Strategy<Value = Place> {
        let is_tls = any::<bool>().prop_map(|is_tls| is_tls && cfg!(feature = "tls"));
        let path = proptest::collection::vec(1_u8.., 0..30)
            .prop_map(|name| PathBuf::from(OsString::from_vec([b"/", &*name].concat())));
        prop_oneof![
            (endpoints(), is_tls.clone()).prop_map(|(at, is_tls)| Place::Host { at, is_tls }),
            path.prop_map(Place::Socket),
            (
                "[a-zA-Z0-9._-]{1,12}",
                proptest::collection::vec(endpoints(), 1..=MAX_SENTINELS),
                logins(),
                is_tls
            )
                .prop_map(|(name, sentinels, login, is_tls)| Place::Service {
                    name,
                    sentinels,
                    login,
                    is_tls
                }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(
            place in places(),
            login in logins(),
            database in prop_oneof![Just(0), any::<u64>()],
        ) {
            let url = NodeUrl { place, login, database };
            let whole = url.with_logins();
            prop_assert!(!whole.contains("${"), "{}", whole);
            prop_assert!(NodeUrl::parse(&whole) == Ok(url.clone()), "{}", whole);
            let address = NodeUrl::parse(&url.to_string()).unwrap();
            prop_assert!(address.login.is_none());
            prop_assert_eq!(address.to_string(), url.to_string());
            let mut again = address;
            let had_login = again.log_in_as(&url);
            prop_assert!(again == url);
            prop_assert_eq!(had_login, whole != url.to_string());
        }
    }
}
