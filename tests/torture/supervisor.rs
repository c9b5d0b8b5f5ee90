//! One run, from the first server to the verdict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::checker::{Claim, Rules, checker};
use crate::fault_injector::FaultInjector;
use crate::fault_schedule::plan;
use crate::history::{Action, Record, Time};
use crate::log::{Log, read_all};
use crate::process::{self, Role};
use crate::processes::Processes;
use crate::settings::{
    CALM, KEYS, MAX_TTL, MEMBERS, Preset, Settings, VIEW_LEASE, WORKERS, key, names,
};
use crate::testbed::{self, Testbed};
use crate::{changer, fenced_store};

/// How long a key may take to be granted after the last fault.
const SWEEP: Duration = Duration::from_secs(10);

/// How often an incomplete change is resumed.
const RESUMES: usize = 3;

pub(crate) fn run(settings: &Settings) {
    let sockets = quick_directory();
    let (directory, kept) = directory(settings);
    let replicas = settings.replicas();
    println!("{settings:?}, replicas {replicas}, history in {directory:?}");
    let mut trouble = if settings.is_again {
        Vec::new()
    } else {
        torture(settings, &directory, sockets.path())
    };
    let records = read_all(&directory);
    println!("{} records", records.len());
    for (what, count) in counts(&records) {
        println!("{count:>8} {what}");
    }
    let rules = Rules {
        replicas,
        max_ttl: MAX_TTL.as_nanos() as Time,
        view_lease: VIEW_LEASE.as_nanos() as Time,
        nodes: names()[..MEMBERS].to_vec(),
    };
    let report = checker(&records, &rules);
    println!("{report}");
    let examined = |claim| report.claims.get(&claim).map_or(0, |it| it.examined);
    let is_rolling = settings.preset == Preset::Rolling;
    if is_rolling && examined(Claim::Resumption) == 0 {
        trouble.push("no round was followed by a quiet time".into());
    }
    let is_well = trouble.is_empty() && report.violations.is_empty();
    if let (Some(kept), false) = (kept, is_well) {
        println!("the history is kept in {:?}", kept.keep());
    }
    assert!(
        is_well,
        "{} violations; {trouble:?}; seed {}",
        report.violations.len(),
        settings.seed
    );
}

/// The directory of the servers: in memory if possible, because a disk that
/// stalls for a second is an unplanned fault.
fn quick_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .expect("a temporary directory")
}

/// The directory of the history; a temporary one unless it must be kept.
fn directory(settings: &Settings) -> (PathBuf, Option<TempDir>) {
    if let Some(out) = &settings.out {
        std::fs::create_dir_all(out).expect("the directory");
        if settings.is_again {
            return (out.clone(), None);
        }
        let is_empty = std::fs::read_dir(out)
            .expect("the directory")
            .next()
            .is_none();
        assert!(
            is_empty,
            "{out:?} is not empty: TORTURE_OUT is for a new history"
        );
        return (out.clone(), None);
    }
    let kept = tempfile::tempdir().expect("a temporary directory");
    (kept.path().into(), Some(kept))
}

/// Injects all faults, and waits for recovery; returns the failures.
fn torture(settings: &Settings, directory: &Path, sockets: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let log = Log::create(directory, 0);
    process::watch_over(Arc::clone(&log));
    fenced_store::start(sockets, Arc::clone(&log));
    let testbed = Arc::new(runtime.block_on(Testbed::start(sockets, settings, &log)));
    let plan = plan(settings, testbed.has_shim);
    println!("{} faults are planned:", plan.len());
    plan.iter().for_each(|planned| println!("{planned}"));
    let processes = Arc::new(processes(settings, directory, sockets, &testbed));
    let began = Instant::now();
    let injector = FaultInjector::new(
        Arc::clone(&testbed),
        Arc::clone(&processes),
        Arc::clone(&log),
    );
    let mut trouble = injector.carry_out(plan, began);
    let rest = (began + settings.length).saturating_duration_since(Instant::now() + CALM);
    std::thread::sleep(rest);
    log.write(Action::Calm);
    println!("calm after {:?}", began.elapsed());
    let mut failed = processes.dismiss(Role::Changer);
    if let Err(error) = runtime.block_on(finish(&testbed, &log)) {
        trouble.push(format!("the last change cannot be finished: {error}"));
    }
    let troubled = testbed.heal();
    if !troubled.is_empty() {
        trouble.push(format!("members that do not heal: {troubled:?}"));
    }
    println!("healed after {:?}", began.elapsed());
    failed.extend(processes.dismiss(Role::Worker));
    if !failed.is_empty() {
        trouble.push(format!("processes that did not end well: {failed:?}"));
    }
    runtime.block_on(sweep(&testbed, &log));
    testbed.close_eyes();
    println!(
        "swept after {:?}; faults: {:?}",
        began.elapsed(),
        injector.counts()
    );
    trouble
}

fn processes(
    settings: &Settings,
    directory: &Path,
    sockets: &Path,
    testbed: &Arc<Testbed>,
) -> Processes {
    let changer = settings.preset.has_changes().then_some(Role::Changer);
    let roles = std::iter::repeat_n(Role::Worker, WORKERS).chain(changer);
    let (settings, testbed) = (settings.clone(), Arc::clone(testbed));
    let (directory, sockets) = (directory.to_path_buf(), sockets.to_path_buf());
    Processes::start(roles, move || {
        let servers = testbed.urls();
        let names = testbed.members();
        let is_member = |(name, _): &&(String, String)| names.contains(name);
        let members: Vec<_> = servers.iter().filter(is_member).cloned().collect();
        testbed::brief(
            &settings,
            directory.clone(),
            sockets.clone(),
            &members,
            &servers,
        )
    })
}

/// Completes a change that was left incomplete.
async fn finish(testbed: &Testbed, log: &Log) -> Result<(), String> {
    let rebalancer = testbed.router.rebalancer().patience(2 * changer::PATIENCE);
    let mut last = Ok(());
    for _ in 0..RESUMES {
        // The router follows by itself: it may be a moment behind.
        match rebalancer.resume(|_| {}).await {
            Err(ringlock::rebalancer::RebalanceError::NothingUnderWay { .. }) => return Ok(()),
            result => {
                last = result.map(drop).map_err(|error| error.to_string());
                let (what, error) = ("resume".into(), last.clone().err());
                log.write(Action::Changed { what, error });
            }
        }
    }
    last
}

/// Requests every key once.
async fn sweep(testbed: &Testbed, log: &Arc<Log>) {
    let mut tasks = JoinSet::new();
    for index in 0..KEYS {
        let (router, log) = (testbed.router.clone(), Arc::clone(log));
        tasks.spawn(async move {
            let key = key(index);
            let acquire = router.acquire(&key).ttl(MAX_TTL).wait(SWEEP).label("sweep");
            let error = acquire.await.err().map(|error| error.to_string());
            log.write(Action::Swept { key, error });
        });
    }
    tasks.join_all().await;
    testbed.router.clone().shutdown().await;
}

/// The number of records of each kind.
fn counts(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        let name = match &record.action {
            Action::Refused { refusal, .. } => format!("Refused {refusal:?}"),
            Action::Released { how, .. } => format!("Released {how:?}"),
            action => {
                let name = format!("{action:?}");
                name.split(' ').next().unwrap_or_default().to_owned()
            }
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}
