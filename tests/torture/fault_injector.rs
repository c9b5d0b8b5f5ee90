//! Injects faults, and removes them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Cmd;

use crate::fault_schedule::Planned;
use crate::history::{Action, Back, Fault};
use crate::log::Log;
use crate::processes::Processes;
use crate::server::Server;
use crate::settings::is_durable;
use crate::testbed::{Place, Testbed};
use ringlock_test_support::proxy::Mode;

/// How long a fault is delayed until few enough nodes are in trouble; then it
/// is left out.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest lag of a replica.
const MOST_LAG: Duration = Duration::from_secs(1);

/// The most bytes that are cut off a log.
const MOST_CUT: u64 = 4_000;

/// Injects faults into the testbed and the processes.
pub(crate) struct FaultInjector {
    pub(crate) testbed: Arc<Testbed>,
    pub(crate) processes: Arc<Processes>,
    pub(crate) log: Arc<Log>,
    /// Nodes with an active fault.
    active: Mutex<BTreeSet<String>>,
    next: Mutex<u64>,
    /// How often there was each fault, and how many were left out.
    counts: Mutex<BTreeMap<String, u32>>,
}

impl FaultInjector {
    pub(crate) fn new(
        testbed: Arc<Testbed>,
        processes: Arc<Processes>,
        log: Arc<Log>,
    ) -> Arc<Self> {
        Arc::new(Self {
            testbed,
            processes,
            log,
            active: Mutex::default(),
            next: Mutex::new(1),
            counts: Mutex::default(),
        })
    }

    /// How often there was each fault.
    pub(crate) fn counts(&self) -> BTreeMap<String, u32> {
        self.counts.lock().clone()
    }

    /// Carries out the plan, which began at `began`, and returns once every
    /// fault is removed; returns the failures.
    pub(crate) fn carry_out(self: &Arc<Self>, plan: Vec<Planned>, began: Instant) -> Vec<String> {
        let (mut under_way, mut trouble) = (Vec::new(), Vec::new());
        for planned in plan {
            let due = began + planned.at;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let dead = self.processes.dead();
            if !dead.is_empty() {
                trouble.push(format!("processes ended by themselves: {dead:?}"));
                break;
            }
            let injector = Arc::clone(self);
            under_way.push((
                planned.to_string(),
                std::thread::spawn(move || injector.one(&planned)),
            ));
        }
        // Joins all of them in any case: they hold servers and processes.
        for (what, thread) in under_way {
            if thread.join().is_err() {
                trouble.push(format!("a fault could not be put in or taken out: {what}"));
            }
        }
        trouble
    }

    fn one(&self, planned: &Planned) {
        match &planned.fault {
            Fault::Paused { worker } => {
                let mut id = 0;
                let struck = |fault| id = self.struck(fault);
                self.processes.pause(*worker, planned.span, struck);
                self.log.write(Action::Mended { id });
            }
            Fault::Slain { worker } => {
                let mut id = 0;
                self.processes
                    .slay(*worker, |fault| id = self.struck(fault));
                self.log.write(Action::Mended { id });
            }
            fault => {
                let node = fault.node().expect("a node");
                if self.admit(node, planned.is_crowd) {
                    let place = &self.testbed.places[node];
                    self.strike(place, planned);
                    place.sight.forget();
                    self.active.lock().remove(node);
                } else {
                    *self.counts.lock().entry("left out".into()).or_default() += 1;
                }
            }
        }
    }

    fn struck(&self, fault: Fault) -> u64 {
        let id = {
            let mut next = self.next.lock();
            *next += 1;
            *next - 1
        };
        let name = format!("{fault:?}");
        let name = name.split(' ').next().unwrap_or_default().to_owned();
        *self.counts.lock().entry(name).or_default() += 1;
        self.log.write(Action::Struck { id, fault });
        id
    }

    /// Waits until a node may be struck, so that a majority stays well.
    fn admit(&self, node: &str, is_crowd: bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut active = self.active.lock();
                let mut troubled = self.testbed.at_risk();
                troubled.extend(active.iter().cloned());
                troubled.insert(node.into());
                let is_minority = 2 * troubled.len() < self.testbed.fewest_voters();
                if !active.contains(node) && (is_crowd || is_minority) {
                    active.insert(node.into());
                    return true;
                }
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn strike(&self, place: &Place, planned: &Planned) {
        let (fault, span) = (planned.fault.clone(), planned.span);
        let is_odd = planned.chance.is_multiple_of(2);
        let either = |one, other| if is_odd { one } else { other };
        let network = |mode| self.network(place, planned, mode);
        let config = |bytes: u32| words(&["CONFIG", "SET", "maxmemory"]).arg(bytes).take();
        let limit = |server: &Server, bytes| server.order(&config(bytes)).expect("its limit");
        let disk = |server: &Server, is_full| {
            server.shim.as_ref().expect("a shim").fill_disk(is_full);
        };
        match &planned.fault {
            Fault::Killed { node, back } => self.kill(place, node, *back, planned),
            Fault::Frozen { .. } => {
                self.during(place, fault, span, |it| it.freeze(), |it| it.thaw());
            }
            Fault::Stalled { .. } => network(either(Mode::Stall, Mode::HalfOpen)),
            Fault::Cut { .. } => network(either(Mode::Cut, Mode::Torn)),
            Fault::Deaf { .. } => network(either(Mode::Deaf, Mode::Late)),
            Fault::Slow { millis, .. } => network(Mode::Slow(Duration::from_millis(*millis))),
            Fault::Flushed { .. } => self.order(place, fault, &[words(&["FLUSHALL"])]),
            Fault::ScriptsFlushed { .. } => {
                self.order(place, fault, &[words(&["SCRIPT", "FLUSH"])]);
            }
            Fault::Disconnected { .. } => {
                let kill = |kind| words(&["CLIENT", "KILL", "TYPE", kind]);
                self.order(place, fault, &[kill("normal"), kill("pubsub")]);
            }
            Fault::Promoted { .. } => {
                let mut id = 0;
                let lag = span.min(MOST_LAG);
                let promoted = place.server.lock().promote(lag, || id = self.struck(fault));
                if let Err(error) = promoted {
                    println!("no replica to promote: {error}");
                    *self.counts.lock().entry("left out".into()).or_default() += 1;
                    return;
                }
                place.proxy.hang_up();
                self.log.write(Action::Mended { id });
            }
            Fault::Stepped { millis, .. } => {
                let id = self.struck(fault);
                let step = |it: &mut Server| {
                    let millis = i64::try_from(*millis).expect("a short step");
                    it.shim.as_mut().expect("a shim").step(millis);
                };
                step(&mut place.server.lock());
                // For this long, earlier entries may last shorter than before.
                std::thread::sleep(span);
                self.log.write(Action::Mended { id });
            }
            Fault::Full { .. } => {
                self.during(place, fault, span, |it| limit(it, 1), |it| limit(it, 0));
            }
            Fault::DiskFull { .. } => {
                let empty = |it: &mut Server| {
                    disk(it, false);
                    // A server that writes immediately ends when it cannot
                    // write.
                    it.spawn();
                };
                self.during(place, fault, span, |it| disk(it, true), empty);
            }
            Fault::Paused { .. } | Fault::Slain { .. } => unreachable!("no fault of a node"),
        }
    }

    /// Changes a server, and undoes it `span` later.
    fn during(
        &self,
        place: &Place,
        fault: Fault,
        span: Duration,
        begin: impl FnOnce(&mut Server),
        end: impl FnOnce(&mut Server),
    ) {
        let mut server = place.server.lock();
        let id = self.struck(fault);
        begin(&mut server);
        std::thread::sleep(span);
        end(&mut server);
        self.log.write(Action::Mended { id });
    }

    fn kill(&self, place: &Place, node: &str, back: Back, planned: &Planned) {
        // A node that lost data it promised to keep would be lying.
        let back = match back {
            Back::Truncated if is_durable(node) => Back::Whole,
            back => back,
        };
        let node = node.into();
        let strike = |server: &mut Server| {
            server.kill();
            match back {
                Back::Whole => {}
                Back::Truncated => server.truncate(1 + planned.chance % MOST_CUT),
                Back::Empty => server.wipe(),
            }
        };
        let fault = Fault::Killed { node, back };
        self.during(place, fault, planned.span, strike, Server::spawn);
    }

    fn network(&self, place: &Place, planned: &Planned, mode: Mode) {
        let id = self.struck(planned.fault.clone());
        place.proxy.set(mode);
        std::thread::sleep(planned.span);
        place.proxy.set(Mode::Pass);
        self.log.write(Action::Mended { id });
    }

    fn order(&self, place: &Place, fault: Fault, orders: &[Cmd]) {
        let server = place.server.lock();
        let id = self.struck(fault);
        for order in orders {
            server.order(order).expect("an order");
        }
        self.log.write(Action::Mended { id });
    }
}

/// A command.
fn words(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}
