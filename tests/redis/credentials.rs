//! Passwords that change while routers run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringlock::node::redis::inspect::{Credentials, Server};
use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::{
    Cause, Config, Error, Guard, Init, NodeConfig, NodeErrorKind, Password, Released, Router,
    RouterBuilder,
};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::node::GRACE;
use ringlock_test_support::{KEY, PROMPTLY, RedisServer, eventually, ms};
use tempfile::TempDir;

/// A server with a user whose password changes, and the file that contains the
/// password.
struct Vault {
    server: RedisServer,
    port: u16,
    directory: TempDir,
}

impl Vault {
    fn start() -> Self {
        let rights = ["--user", "locker", "on", ">first", "~*", "+@all"];
        let (server, port) = RedisServer::start_on_tcp(&rights);
        let vault = Self {
            server,
            port,
            directory: tempfile::tempdir().unwrap(),
        };
        vault.write("first");
        vault
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    fn write(&self, password: &str) {
        std::fs::write(self.file(), format!("{password}\n")).unwrap();
    }

    /// Changes the password on the server, and closes the connections that used
    /// the old one.
    fn change(&self, password: &str) {
        let mut client = self.server.client();
        redis::cmd("ACL")
            .arg(&["SETUSER", "locker", "resetpass", &format!(">{password}")])
            .exec(&mut client)
            .unwrap();
        self.cut();
    }

    fn cut(&self) {
        redis::cmd("CLIENT")
            .arg(&["KILL", "USER", "locker"])
            .exec(&mut self.server.client())
            .unwrap();
    }

    fn node(&self, password: Password) -> NodeConfig {
        let mut node = NodeConfig::new("a", format!("redis://127.0.0.1:{}", self.port));
        node.username = Some("locker".into());
        node.password = Some(password);
        node
    }

    fn builder(&self) -> RouterBuilder {
        let node = self.node(Password::file(self.file()));
        Router::builder().init(Init::Now).node_config(node)
    }
}

/// Extends until it succeeds.
async fn extends_again(guard: &Guard) {
    let deadline = Instant::now() + GRACE;
    while let Err(error) = guard.extend().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(ms(1)).await;
    }
}

/// Extends until it fails with a wrong password; returns the error's text.
async fn is_denied(guard: &Guard) -> String {
    let deadline = Instant::now() + GRACE;
    loop {
        if let Err(Error::NoQuorum { causes, .. }) = guard.extend().await
            && let Cause::Failed(error) = &causes[0].cause
            && error.kind() == NodeErrorKind::Denied
        {
            return format!("{error:#}");
        }
        assert!(Instant::now() < deadline, "it is not refused");
        tokio::time::sleep(ms(1)).await;
    }
}

async fn lasting(router: &Router, key: &str) -> Guard {
    let longest = Duration::from_secs(30);
    router.try_acquire(key).ttl(longest).await.unwrap()
}

#[tokio::test]
async fn a_password_changes_under_a_lease() {
    let vault = Vault::start();
    let router = vault.builder().connect().await.unwrap();
    let other = vault.builder().connect().await.unwrap();
    let guard = lasting(&router, KEY).await;
    for password in ["second", "third"] {
        // The file is late.
        vault.change(password);
        let reported = is_denied(&guard).await;
        let path = vault.file().display().to_string();
        assert!(
            reported.contains("WRONGPASS") && reported.contains(&path),
            "{reported}"
        );
        assert!(
            !reported.contains("second") && !reported.contains("third"),
            "{reported}"
        );
        vault.write(password);
        extends_again(&guard).await;
        assert!(guard.loss().is_none());
    }
    // The file changes first: only a lost connection is noticeable.
    vault.write("fourth");
    vault.change("fourth");
    extends_again(&guard).await;
    // A connection that logs in again notifies waiters too.
    let waiting = tokio::spawn(other.acquire(KEY).wait(12 * PROMPTLY).into_future());
    eventually(PROMPTLY, "somebody waits", || other.stats().attempts > 1).await;
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
    drop(waiting.await.unwrap().unwrap());
    let late = vault.builder().connect().await.unwrap();
    drop(late.acquire(KEY).await.unwrap());
}

#[tokio::test]
async fn a_password_comes_from_code() {
    let vault = Vault::start();
    let current = Arc::new(Mutex::new(Ok("first".to_owned())));
    let shared = Arc::clone(&current);
    let password = Password::from_fn(move || Ok(shared.lock().clone()?));
    let builder = Router::builder().init(Init::Now);
    let router = builder.node_config(vault.node(password)).connect().await;
    let guard = lasting(&router.unwrap(), KEY).await;
    *current.lock() = Err("the vault is closed");
    vault.change("second");
    let reported = is_denied(&guard).await;
    assert!(reported.contains("the vault is closed"), "{reported}");
    *current.lock() = Ok("second".to_owned());
    extends_again(&guard).await;
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_reported() {
    let vault = Vault::start();
    let refused = async || match vault.builder().connect().await.unwrap_err() {
        Error::Node(at) => match at.cause {
            Cause::Failed(error) if error.kind() == NodeErrorKind::Denied => format!("{error:#}"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let path = vault.file().display().to_string();
    vault.write("wrong");
    let reported = refused().await;
    assert!(
        reported.contains("check username") && reported.contains(&path),
        "{reported}"
    );
    vault.write("");
    let reported = refused().await;
    assert!(
        reported.contains(&path) && reported.contains("empty"),
        "{reported}"
    );
    std::fs::remove_file(vault.file()).unwrap();
    let reported = refused().await;
    assert!(
        reported.contains(&path) && reported.contains("No such file"),
        "{reported}"
    );
    // Stands for an unreadable file: root can read every file.
    std::fs::create_dir(vault.file()).unwrap();
    let reported = refused().await;
    assert!(
        reported.contains(&path) && reported.contains("directory"),
        "{reported}"
    );
}

#[tokio::test]
async fn a_file_that_the_configuration_names() {
    let vault = Vault::start();
    let (port, file) = (vault.port, vault.file());
    let text = |login: &str| {
        format!(
            "[router]\ninit = \"now\"\n[[node]]\nname = \"a\"\nurl = \"redis://127.0.0.1:{port}\"\n{login}"
        )
    };
    let login = format!("username = \"locker\"\npassword_file = {file:?}\n");
    let config: Config = text(&login).parse().unwrap();
    let router = Router::connect(config).await.unwrap();
    drop(router.acquire(KEY).await.unwrap());
    let half: Config = text("username = \"locker\"\n").parse().unwrap();
    let error = Router::connect(half).await.unwrap_err().to_string();
    assert!(error.contains("password_file"), "{error}");
}

/// The users as which connections of routers are logged in.
fn users(server: &RedisServer) -> Vec<String> {
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut server.client())
        .unwrap();
    let own = clients.lines().filter(|line| !line.contains("cmd=client"));
    let user = |line: &str| {
        let mut fields = line.split(' ');
        fields.find_map(|field| field.strip_prefix("user=").map(Into::into))
    };
    own.filter_map(user).collect()
}

/// A user without a password remains that user: no connection falls back to the
/// default user.
#[tokio::test]
async fn a_user_without_a_password() {
    for edition in Edition::ALL {
        let rights = ["--user", "bob", "on", "nopass", "~*", "+@all"];
        let (server, port) = RedisServer::start_edition_on_tcp(edition, &rights);
        let socket = server.socket().display().to_string();
        let urls = [
            format!("redis://bob@127.0.0.1:{port}"),
            format!("redis://bob:@127.0.0.1:{port}"),
            format!("valkey://bob@127.0.0.1:{port}/1"),
            format!("unix://{socket}?user=bob"),
            format!("valkey+unix://{socket}?pass=&user=bob&db=2"),
        ];
        for url in &urls {
            let router = Router::builder().init(Init::Now).node("a", url);
            let router = router.connect().await.expect(url);
            drop(router.acquire(KEY).await.expect(url));
            let users = users(&server);
            let is_bob = !users.is_empty() && users.iter().all(|user| user == "bob");
            assert!(is_bob, "{edition:?} {url}: {users:?}");
            router.shutdown().await;
            // Its connections are closed before those of the next router are
            // counted.
            eventually(PROMPTLY, "it has hung up", || {
                self::users(&server).is_empty()
            })
            .await;
        }
        // Where bob has a password, the server refuses him; no other user is
        // tried.
        server.set_user("bob", &["resetpass", ">s3cret"]);
        for url in urls {
            let refused = Router::builder().node("a", &url).connect().await;
            match refused.expect_err(&url) {
                Error::Node(at) => assert!(
                    matches!(&at.cause, Cause::Failed(error) if error.kind() == NodeErrorKind::Denied),
                    "{edition:?} {url}: {at:?}"
                ),
                other => panic!("{edition:?} {url}: {other:?}"),
            }
        }
    }
}

/// The user is kept on the other paths too: a view's address with a local
/// login, the connections of operator tools, and options that are half set.
#[tokio::test]
async fn a_user_without_a_password_elsewhere() {
    let rights = ["--user", "bob", "on", "nopass", "~*", "+@all"];
    let (server, port) = RedisServer::start_on_tcp(&rights);
    let config: Config =
        format!("[[node]]\nname = \"a\"\nurl = \"redis://bob@127.0.0.1:{port}\"\n")
            .parse()
            .unwrap();
    let options = RedisOptions::default;
    for address in [
        format!("redis://127.0.0.1:{port}"),
        format!("unix://{}", server.socket().display()),
    ] {
        for name in ["a", "b"] {
            let node = config.reach_at(name, &address);
            let inspected = Server::from_config(&config, &node).unwrap().unwrap();
            let look = inspected.open().await.unwrap();
            assert_eq!(users(&server), ["bob"], "{name} at {address}");
            drop(look);
            eventually(PROMPTLY, "it has hung up", || users(&server).is_empty()).await;
        }
        let bob = Credentials::of_url(&format!("redis://bob@127.0.0.1:{port}")).unwrap();
        for credentials in [bob, Credentials::new(Some("bob"), None)] {
            let inspected = Server::at(&address, credentials, &options()).unwrap();
            let look = inspected.open().await.unwrap();
            assert_eq!(users(&server), ["bob"], "{address}");
            drop(look);
            eventually(PROMPTLY, "it has hung up", || users(&server).is_empty()).await;
        }
    }
    let mut half = options();
    half.username = Some("bob".into());
    let url = format!("redis://127.0.0.1:{port}");
    let problem = RedisNode::new(&url, half).unwrap_err();
    assert!(problem.contains("password_file"), "{problem}");
}
