//! The crate `fred` alone, which pipelines the commands of concurrent tasks on one
//! connection per node: the commands of the bare redis crate.

use std::sync::Arc;

use fred::prelude::{
    Builder, Client, ClientLike, Config, Expiration, KeysInterface, LuaInterface, SetOptions,
};
use ringlock_bench::Fault;
use ringlock_bench::contenders::bare::RELEASE;
use ringlock_bench::contenders::patient::{Busy, Patient};
use ringlock_bench::contenders::{TTL_MS, token};
use ringlock_bench::keys::KeySpace;
use ringlock_bench::load::{Locker, ReleaseOutcome};
use ringlock_bench::peers::{Kind, Making, Peer, Site};

pub(crate) const PEER: Peer = Peer {
    name: "bare fred crate",
    kind: Kind::Commands,
    make,
};

fn make(site: Site) -> Making {
    Box::pin(site.contender(async |urls, keys| {
        let url = urls.first().ok_or("no node to connect to")?;
        let client = Builder::from_config(Config::from_url(url)?)
            .with_connection_config(|config| config.tcp.nodelay = Some(true))
            .build()?;
        client.init().await?;
        let release: String = client.script_load(RELEASE).await?;
        Ok(Patient(Fred {
            client,
            keys,
            release: release.into(),
        }))
    }))
}

#[derive(Clone)]
struct Fred {
    client: Client,
    keys: Arc<KeySpace>,
    release: Arc<str>,
}

struct Lease {
    key: usize,
    token: String,
}

impl Locker for Fred {
    type Lease = Lease;

    async fn acquire(&self, _: usize, key: usize) -> Result<Lease, Fault> {
        let token = token();
        let (name, ttl) = (self.keys.get(key), TTL_MS.cast_signed());
        let expiration = Some(Expiration::PX(ttl));
        let options = Some(SetOptions::NX);
        let taken: Option<String> = self
            .client
            .set(name, token.as_str(), expiration, options, false)
            .await?;
        match taken {
            Some(_) => Ok(Lease { key, token }),
            None => Err(Busy.into()),
        }
    }

    async fn release(&self, lease: Lease) -> Result<ReleaseOutcome, Fault> {
        let deleted: u64 = self
            .client
            .evalsha(&*self.release, self.keys.get(lease.key), lease.token)
            .await?;
        Ok(match deleted {
            1 => ReleaseOutcome::InTime,
            _ => ReleaseOutcome::Late,
        })
    }
}
