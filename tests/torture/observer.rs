//! Reads the state of the servers, past every proxy, continuously.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Connection, RedisResult, cmd};
use ringlock::Holder;

use crate::history::{Action, Ask, MS, SECOND, Time};
use crate::log::{Log, now};
use crate::server::connect;
use crate::settings::{KEYS, key};
use ringlock_test_support::proxy::Target;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// A node that was not seen for this long is not well.
const FRESH: Time = SECOND;

/// The view's id, if its data belongs to this incarnation of the server; then
/// for each locked key its index, the entry, and the remaining time in
/// milliseconds. All as text.
const LOOK: &str = "
local seen = { '' }
if redis.call('HGET', KEYS[2], 'inc') == ARGV[1] then
  seen[1] = redis.call('GET', KEYS[1]) or ''
end
for i = 3, #KEYS do
  local entry = redis.call('GET', KEYS[i])
  if entry then
    seen[#seen + 1] = tostring(i - 3)
    seen[#seen + 1] = entry
    seen[#seen + 1] = tostring(redis.call('PTTL', KEYS[i]))
  end
end
return seen";

/// The last observation of a node.
#[derive(Debug, Default)]
pub(crate) struct Sight(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When that look began.
    at: Time,
    view: String,
    /// Looks that began earlier are obsolete.
    since: Time,
}

impl Sight {
    /// The view that it serves, if that was seen recently.
    pub(crate) fn serves(&self) -> Option<String> {
        let seen = self.0.lock();
        let is_fresh = seen.at >= seen.since && now() < seen.at + FRESH;
        (is_fresh && !seen.view.is_empty()).then(|| seen.view.clone())
    }

    /// Whether a fault was in it less than `span` ago.
    pub(crate) fn was_struck(&self, span: Duration) -> bool {
        let since = self.0.lock().since;
        since > 0 && now() < since + span.as_nanos() as Time
    }

    /// Makes all earlier observations obsolete.
    pub(crate) fn forget(&self) {
        self.0.lock().since = now();
    }
}

/// Observes `node` until `is_over`.
pub(crate) fn start(
    node: String,
    target: Target,
    log: Arc<Log>,
    is_over: Arc<AtomicBool>,
) -> (Arc<Sight>, JoinHandle<()>) {
    let sight = Arc::new(Sight::default());
    let observer = Observer {
        node,
        target,
        log,
        sight: Arc::clone(&sight),
        connection: None,
    };
    let thread = std::thread::spawn(move || observer.run(&is_over));
    (sight, thread)
}

struct Observer {
    node: String,
    target: Target,
    log: Arc<Log>,
    sight: Arc<Sight>,
    connection: Option<Inside>,
}

/// A connection to a server.
struct Inside {
    socket: PathBuf,
    run_id: String,
    connection: Connection,
}

impl Inside {
    fn connect(socket: PathBuf) -> RedisResult<Self> {
        let mut connection = connect(&socket)?;
        let run_id = fact(&mut connection, "server", "run_id")?;
        Ok(Self {
            socket,
            run_id,
            connection,
        })
    }

    /// The server's incarnation now. The replication id of a running server changes
    /// with its first replica, also if that replica's promotion fails.
    fn incarnation(&mut self) -> RedisResult<String> {
        let history = fact(&mut self.connection, "replication", "master_replid")?;
        Ok(format!("{}/{history}", self.run_id))
    }
}

/// One fact of a section of INFO; empty if it is not there.
fn fact(connection: &mut Connection, section: &str, name: &str) -> RedisResult<String> {
    let info: String = cmd("INFO").arg(section).query(connection)?;
    let mut lines = info.lines();
    let fact = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(fact.unwrap_or_default().to_owned())
}

impl Observer {
    fn run(mut self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            if self.look().is_err() {
                self.connection = None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn look(&mut self) -> RedisResult<()> {
        let socket = self.target.get();
        let mut inside = match self.connection.take() {
            Some(inside) if inside.socket == socket => inside,
            _ => Inside::connect(socket)?,
        };
        let mut look = cmd("EVAL");
        look.arg(LOOK).arg(KEYS + 2);
        look.arg("ringlock!id").arg("ringlock!m");
        for index in 0..KEYS {
            look.arg(format!("ringlock:{}", key(index)));
        }
        look.arg(inside.incarnation()?);
        let from = now();
        let seen: Vec<Vec<u8>> = look.query(&mut inside.connection)?;
        let at = now();
        self.connection = Some(inside);
        let entries = seen[1..].as_chunks::<3>().0.iter().map(entry).collect();
        let view = String::from_utf8_lossy(&seen[0]).into_owned();
        {
            let mut known = self.sight.0.lock();
            (known.at, known.view) = (from, view.clone());
        }
        let action = Action::Looked {
            node: self.node.clone(),
            from,
            serves: (!view.is_empty()).then_some(view),
            entries,
        };
        self.log.write_at(at, action);
        Ok(())
    }
}

fn entry([index, entry, millis]: &[Vec<u8>; 3]) -> (String, Option<Ask>, Time) {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    let name = key(number(index).expect("an index") as usize);
    // An entry without an expiry lasts forever.
    let millis = number(millis).and_then(|millis| Time::try_from(millis).ok());
    let left = millis.map_or(Time::MAX, |millis| millis * MS);
    let ask = Holder::of_stored(entry)
        .label()
        .and_then(|label| asked(label, &name));
    (name, ask, left)
}

/// The ask in a label. A call for many keys has one label, which lists them:
/// each is an ask of its own, counted from the first.
fn asked(label: &str, key: &str) -> Option<Ask> {
    let (first, keys) = label.split_once(' ').unwrap_or((label, key));
    let index = keys.split(' ').position(|one| one == key)?;
    Some(Ask::from_str_radix(first, 16).ok()? + index as Ask)
}

/// The label of a call for `keys`, whose asks are counted from `first`.
pub(crate) fn label(first: Ask, keys: &[String]) -> String {
    format!("{first:x} {}", keys.join(" "))
}

#[test]
fn labels_tell_the_ask() {
    assert_eq!(asked("1f", "k1"), Some(31));
    let label = label(31, &["k1".into(), "k4".into()]);
    assert_eq!(asked(&label, "k4"), Some(32));
    assert_eq!(asked(&label, "k2"), None);
    assert_eq!(asked("host:7", "k2"), None);
}
