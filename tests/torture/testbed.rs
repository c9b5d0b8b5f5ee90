//! The servers, each behind its proxy and observed continuously, and a separate
//! router.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringlock::{Init, Router};

use crate::fault_schedule::RECOVERY;
use crate::log::Log;
use crate::observer::{self, Sight};
use crate::process::{Reported, Role, url};
use crate::server::Server;
use crate::settings::{MEMBERS, Settings, is_durable, names};
use ringlock_test_support::proxy::{Mode, Proxy, Target};
use ringlock_test_support::shim::{self, Shim};

/// How long it may take after the last fault until all members serve one view:
/// votes, and a quarantine or two.
const HEALING: Duration = Duration::from_secs(30);

/// One server and its surroundings.
pub(crate) struct Place {
    pub(crate) server: Mutex<Server>,
    pub(crate) proxy: Proxy,
    pub(crate) sight: Arc<Sight>,
}

/// All servers.
pub(crate) struct Testbed {
    pub(crate) places: BTreeMap<String, Place>,
    pub(crate) router: Router,
    pub(crate) has_shim: bool,
    lookers: Mutex<Vec<JoinHandle<()>>>,
    is_over: Arc<AtomicBool>,
}

impl Testbed {
    /// Starts servers, and a cluster of the first of them.
    pub(crate) async fn start(sockets: &Path, settings: &Settings, log: &Arc<Log>) -> Self {
        let library = shim::compile(sockets);
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut places, mut lookers) = (BTreeMap::new(), Vec::new());
        for name in names() {
            let root = sockets.join(format!("{name}.d"));
            let reported = sockets.join(format!("{name}.shim"));
            let shim = library.clone().map(|library| Shim::new(library, reported));
            let target = Target::new(root.clone());
            let server = Server::start(root, is_durable(&name), shim, target.clone());
            let proxy = Proxy::on(url(sockets, &name), target.clone(), Mode::Pass);
            let (log, ended) = (Arc::clone(log), Arc::clone(&is_over));
            let (sight, observer) = observer::start(name.clone(), target, log, ended);
            lookers.push(observer);
            let server = Mutex::new(server);
            places.insert(
                name,
                Place {
                    server,
                    proxy,
                    sight,
                },
            );
        }
        let urls: Vec<_> = places
            .iter()
            .map(|(name, place)| (name.clone(), place.proxy.url()))
            .collect();
        let first = brief(
            settings,
            PathBuf::new(),
            sockets.into(),
            &urls[..MEMBERS],
            &urls,
        );
        let router = first.builder().init(Init::Now).connect().await;
        Self {
            places,
            router: router.expect("a new cluster"),
            has_shim: library.is_some(),
            lookers: Mutex::new(lookers),
            is_over,
        }
    }

    /// All servers' names and URLs.
    pub(crate) fn urls(&self) -> Vec<(String, String)> {
        let urls = self
            .places
            .iter()
            .map(|(name, place)| (name.clone(), place.proxy.url()));
        urls.collect()
    }

    /// The members' names.
    pub(crate) fn members(&self) -> Vec<String> {
        let view = self.router.view();
        view.members().map(|member| member.name.clone()).collect()
    }

    /// The nodes of the smaller topology: a joint view needs a majority of both, and
    /// only an operator brings it back once most nodes of one have lost their data.
    pub(crate) fn fewest_voters(&self) -> usize {
        let view = self.router.view();
        let (old, new) = (view.topology(), view.next());
        let new = new.map_or(usize::MAX, |new| new.nodes.len());
        old.nodes.len().min(new)
    }

    /// Members that were not recently seen to serve the newest view, and other
    /// servers that had a fault until recently: a change in progress may make
    /// them members before this router learns of it.
    pub(crate) fn at_risk(&self) -> BTreeSet<String> {
        let troubled = self.troubled();
        let members = self.members();
        let is_shaken = |(name, place): &(&String, &Place)| {
            !members.contains(name) && place.sight.was_struck(RECOVERY)
        };
        let shaken = self.places.iter().filter(is_shaken);
        let shaken = shaken.map(|(name, _)| name.clone());
        troubled.into_iter().chain(shaken).collect()
    }

    /// Members that were not recently seen to serve the newest view.
    pub(crate) fn troubled(&self) -> Vec<String> {
        let epoch = |view: &str| view.split(':').next()?.parse::<u32>().ok();
        let serves = |name: &String| epoch(&self.places[name].sight.serves()?);
        let newest = self.places.keys().filter_map(serves).max();
        let mut members = self.members();
        members.retain(|name| newest.is_none() || serves(name) != newest);
        members
    }

    /// Waits until no member is in trouble; returns those that still are.
    pub(crate) fn heal(&self) -> Vec<String> {
        let deadline = Instant::now() + HEALING;
        loop {
            let troubled = self.troubled();
            if troubled.is_empty() || Instant::now() > deadline {
                return troubled;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the lookers.
    pub(crate) fn close_eyes(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        for observer in self.lookers.lock().drain(..) {
            observer.join().expect("an observer");
        }
    }
}

/// The settings of any process.
pub(crate) fn brief(
    settings: &Settings,
    directory: PathBuf,
    sockets: PathBuf,
    members: &[(String, String)],
    servers: &[(String, String)],
) -> Reported {
    Reported {
        role: Role::Worker,
        number: 0,
        seed: settings.seed,
        replicas: settings.replicas(),
        directory,
        sockets,
        members: members.to_vec(),
        servers: servers.to_vec(),
    }
}
