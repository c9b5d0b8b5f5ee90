//! The process that changes the membership, and may be killed during a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::rebalancer::RebalanceError;
use ringlock::{Change, Router};

use crate::history::Action;
use crate::log::Log;
use crate::process::{Reported, node};

/// How long nodes may block a change: as long as faults last.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The fewest members, so that one absent member is a minority.
const FEWEST: usize = 5;

pub(crate) async fn change(reported: Reported, log: Arc<Log>, is_over: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(reported.seed);
    let Some(router) = reported.connect(&is_over).await else {
        return;
    };
    while !is_over.load(Ordering::Relaxed) {
        let (what, result) = once(&router, &reported, &mut random).await;
        let error = result.err().map(|error| error.to_string());
        log.write(Action::Changed { what, error });
        let pause = Duration::from_millis(random.random_range(100..1_500));
        tokio::time::sleep(pause).await;
    }
    router.shutdown().await;
}

async fn once(
    router: &Router,
    reported: &Reported,
    random: &mut StdRng,
) -> (String, Result<(), RebalanceError>) {
    let rebalancer = router.rebalancer().patience(PATIENCE);
    if router.view().next().is_some() {
        if random.random_bool(0.8) {
            let result = rebalancer.resume(|_| {}).await;
            return ("resume".into(), result.map(drop));
        }
        let result = rebalancer.abort(|_| {}).await;
        return ("abort".into(), result.map(drop));
    }
    let change = draw(router, reported, random);
    let what = format!("{change:?}");
    let plan = match rebalancer.plan([change]).await {
        Ok(plan) => plan,
        Err(error) => return (what, Err(error)),
    };
    let result = rebalancer.apply(&plan, |_| {}).await;
    (what, result.map(drop))
}

fn draw(router: &Router, reported: &Reported, random: &mut StdRng) -> Change {
    let view = router.view();
    let is_member = |name: &str| view.members().any(|member| member.name == name);
    let members: Vec<_> = reported
        .servers
        .iter()
        .filter(|(name, _)| is_member(name))
        .collect();
    let spares: Vec<_> = reported
        .servers
        .iter()
        .filter(|(name, _)| !is_member(name))
        .collect();
    let (member, _) = members[random.random_range(0..members.len())];
    let spare = match &spares[..] {
        [] => None,
        some => Some(some[random.random_range(0..some.len())]),
    };
    match (random.random_range(0..10), spare) {
        (0..5, Some((name, url))) => Change::Replace {
            node: member.clone(),
            by: node(name, url),
        },
        (5..7, Some((name, url))) => Change::Add(node(name, url)),
        (5..8, _) if members.len() > FEWEST => Change::Remove {
            node: member.clone(),
        },
        _ => Change::Reweight {
            node: member.clone(),
            weight: random.random_range(1..4),
        },
    }
}
