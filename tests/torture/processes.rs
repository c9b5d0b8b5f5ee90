//! The processes that take locks and change the membership, as managed by the
//! process that starts, pauses and kills them.

use std::time::Duration;

use parking_lot::Mutex;

use crate::history::Fault;
use crate::process::{Process, Reported, Role};
use crate::worker::LEAVE;

/// A place, and its process.
#[derive(Debug)]
struct Place {
    role: Role,
    process: Mutex<Process>,
}

/// All of them.
pub(crate) struct Processes {
    places: Vec<Place>,
    next: Mutex<u32>,
    /// The settings of the next process, except for its role and number.
    brief: Box<dyn Fn() -> Reported + Send + Sync>,
}

impl Processes {
    /// Starts one process for each role.
    pub(crate) fn start(
        roles: impl IntoIterator<Item = Role>,
        brief: impl Fn() -> Reported + Send + Sync + 'static,
    ) -> Self {
        let mut processes = Self {
            places: Vec::new(),
            next: Mutex::new(1),
            brief: Box::new(brief),
        };
        for role in roles {
            let process = Mutex::new(processes.hire(role));
            processes.places.push(Place { role, process });
        }
        processes
    }

    fn hire(&self, role: Role) -> Process {
        let mut next = self.next.lock();
        let number = *next;
        *next += 1;
        let mut reported = (self.brief)();
        reported.role = role;
        reported.number = number;
        // Each task adds its own number to the seed.
        reported.seed = reported.seed.wrapping_add(u64::from(number) << 32);
        Process::start(&reported)
    }

    /// The place that a number in the plan refers to.
    fn place(&self, worker: u32) -> &Place {
        &self.places[worker as usize % self.places.len()]
    }

    /// SIGSTOP for `span`; `struck` gets the fault before that.
    pub(crate) fn pause(&self, worker: u32, span: Duration, struck: impl FnOnce(Fault)) {
        let process = self.place(worker).process.lock();
        struck(Fault::Paused {
            worker: process.number,
        });
        process.pause();
        std::thread::sleep(span);
        process.go_on();
    }

    /// kill -9; another replaces it.
    pub(crate) fn slay(&self, worker: u32, struck: impl FnOnce(Fault)) {
        let place = self.place(worker);
        let mut process = place.process.lock();
        struck(Fault::Slain {
            worker: process.number,
        });
        process.slay();
        *process = self.hire(place.role);
    }

    /// Those that ended by themselves, by number.
    pub(crate) fn dead(&self) -> Vec<u32> {
        // A paused process is not dead.
        let processes = self
            .places
            .iter()
            .filter_map(|place| place.process.try_lock());
        let dead = processes.filter_map(|mut process| {
            let is_dead = !process.is_alive();
            is_dead.then_some(process.number)
        });
        dead.collect()
    }

    /// Stops all processes of a role; returns the numbers of those that did not
    /// end properly.
    pub(crate) fn dismiss(&self, role: Role) -> Vec<u32> {
        let those = || self.places.iter().filter(|place| place.role == role);
        those().for_each(|place| place.process.lock().ask_to_stop());
        let failed = those().filter_map(|place| {
            let mut process = place.process.lock();
            let is_well = process.wait(LEAVE + LEAVE);
            (!is_well).then_some(process.number)
        });
        failed.collect()
    }
}
