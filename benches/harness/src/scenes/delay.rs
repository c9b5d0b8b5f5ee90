//! A quorum behind a slow network: its acquire takes one round trip of the
//! third fastest node, whatever the others do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Run;
use crate::Fault;
use crate::checker::Faults;
use crate::contenders::routed::Routed;
use crate::keys::KeySpace;
use crate::load::{Boxed, Checked, Contender, Load, Sample, Turn};
use crate::peers::{Kind, Site};
use crate::proxy::Proxy;
use crate::report::goal::{Bound, Goal};
use crate::rounds::{About, Entry};
use crate::statistics::{median, ratios};

const DELAYED: &str = "quorum behind delays";

/// One-way delays, in milliseconds.
const DELAYS: [u64; 5] = [1, 1, 1, 4, 20];

/// Goal 6.
pub(crate) async fn slow_minority(run: &mut Run) -> Result<(), Fault> {
    let nodes = run.stage.nodes.iter().map(|node| node.address.clone());
    let Some(addresses) = nodes.take(5).collect::<Option<Vec<String>>>() else {
        return Ok(());
    };
    if addresses.len() < 5 {
        return Ok(());
    }
    let mut proxies = Vec::new();
    for (address, delay) in addresses.iter().zip(DELAYS) {
        proxies.push(Proxy::delaying(address, Duration::from_millis(delay))?);
    }
    let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
    let keys = Arc::new(KeySpace::new("lock:", run.stage.keys, 0.0));
    let namespace = run.stage.namespace("delayed");
    let routed = Routed::connect(&urls, 5, &namespace, &keys).await?;
    let ping: Arc<dyn Contender> = Arc::new(Ping {
        address: proxies[0].address(),
    });
    let mut contenders = vec![
        ("PING of a fast node", ping),
        ("ringlock quorum of 5", Arc::new(Checked::new(routed, keys))),
    ];
    let libraries = run.peers.iter().filter(|peer| peer.kind == Kind::Library);
    for peer in libraries {
        let keys = run.stage.key_space(&format!("{}delayed", peer.name));
        let site = Site::together(urls.clone(), keys);
        contenders.push((peer.name, (peer.make)(site).await?));
    }
    let mut entries = Vec::new();
    for (name, contender) in contenders {
        let about = About {
            scene: DELAYED,
            contender: name.into(),
            nodes: 5,
            replicas: 5,
        };
        entries.push(Entry::new(about, run.load(1), contender, &[])?);
    }
    let plan = run.plan;
    run.compete(&plan, &mut entries).await?;
    let latency = |entry: &Entry| entry.series(|round| round.acquire_p50_us);
    let ping = latency(&entries[0]);
    let mut note = String::from("1 ms one way, two of the five 4 and 20 ms");
    for peer in &entries[2..] {
        let its = median(&ratios(&latency(peer), &ping));
        note += &format!("; {}: {its:.2}", peer.about.contender);
    }
    run.goal(Goal::new(
        "6",
        "quorum acquire with two slow nodes, in round trips of a fast one",
        ratios(&latency(&entries[1]), &ping),
        Bound::AtMost(1.10),
        note,
    ));
    Ok(())
}

/// PING on a plain socket: the round trip that is the unit of this scene.
struct Ping {
    address: std::net::SocketAddr,
}

impl Contender for Ping {
    fn turn<'a>(&'a self, load: &'a Load) -> Boxed<'a, Result<Turn, Fault>> {
        Box::pin(async move {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let mut turn = Turn::new(load);
            let begin = Instant::now();
            while begin.elapsed() < load.warm_up + load.span {
                let asked = Instant::now();
                stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
                let mut reply = [0; 7];
                stream.read_exact(&mut reply).await?;
                if &reply != b"+PONG\r\n" {
                    return Err("not the reply of a PING".into());
                }
                turn.samples.push(Sample {
                    done: begin.elapsed(),
                    acquire: asked.elapsed(),
                });
            }
            Ok(turn)
        })
    }

    fn faults(&self) -> Faults {
        Faults::default()
    }
}
