//! Looks into the servers, past every proxy, all the time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Connection, RedisResult, cmd};
use ringlock::Holder;

use crate::history::{Ask, Deed, MS, SECOND, Time};
use crate::log::{Log, now};
use crate::proxy::Target;
use crate::server::connect;
use crate::settings::{KEYS, key};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// A node that was not seen for so long is not well.
const FRESH: Time = SECOND;

/// The view's id; then of each key that is locked: which it is, the entry, and
/// how long it lasts in milliseconds. As text, all of it.
const LOOK: &str = "
local seen = { redis.call('GET', KEYS[1]) or '' }
for i = 2, #KEYS do
  local entry = redis.call('GET', KEYS[i])
  if entry then
    seen[#seen + 1] = tostring(i - 2)
    seen[#seen + 1] = entry
    seen[#seen + 1] = tostring(redis.call('PTTL', KEYS[i]))
  end
end
return seen";

/// What was last seen of a node.
#[derive(Debug, Default)]
pub(crate) struct Sight(Mutex<Option<(Time, String)>>);

impl Sight {
    /// The view that it serves, if it was seen to a moment ago.
    pub(crate) fn serves(&self) -> Option<String> {
        let seen = self.0.lock();
        let (at, view) = seen.as_ref()?;
        (now() < at + FRESH && !view.is_empty()).then(|| view.clone())
    }
}

/// Looks at `node` until `is_over`.
pub(crate) fn start(
    node: String,
    target: Target,
    log: Arc<Log>,
    is_over: Arc<AtomicBool>,
) -> (Arc<Sight>, JoinHandle<()>) {
    let sight = Arc::new(Sight::default());
    let looker = Looker {
        node,
        target,
        log,
        sight: Arc::clone(&sight),
        connection: None,
    };
    let thread = std::thread::spawn(move || looker.run(&is_over));
    (sight, thread)
}

struct Looker {
    node: String,
    target: Target,
    log: Arc<Log>,
    sight: Arc<Sight>,
    connection: Option<(PathBuf, Connection)>,
}

impl Looker {
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
        let (at, mut connection) = match self.connection.take() {
            Some(known) => known,
            None => (socket.clone(), connect(&socket)?),
        };
        if at != socket {
            return Ok(());
        }
        let mut look = cmd("EVAL");
        look.arg(LOOK).arg(KEYS + 1).arg("ringlock!id");
        for index in 0..KEYS {
            look.arg(format!("ringlock:{}", key(index)));
        }
        let from = now();
        let seen: Vec<Vec<u8>> = look.query(&mut connection)?;
        let at_last = now();
        self.connection = Some((socket, connection));
        let entries = seen[1..].as_chunks::<3>().0.iter().map(entry).collect();
        let view = String::from_utf8_lossy(&seen[0]).into_owned();
        *self.sight.0.lock() = Some((at_last, view.clone()));
        let deed = Deed::Looked {
            node: self.node.clone(),
            from,
            serves: (!view.is_empty()).then_some(view),
            entries,
        };
        self.log.write_at(at_last, deed);
        Ok(())
    }
}

fn entry([index, entry, millis]: &[Vec<u8>; 3]) -> (String, Option<Ask>, Time) {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    let name = key(number(index).expect("an index") as usize);
    // An entry without an end is one for ever.
    let millis = number(millis).and_then(|millis| Time::try_from(millis).ok());
    let left = millis.map_or(Time::MAX, |millis| millis * MS);
    let ask = Holder::of_stored(entry)
        .label()
        .and_then(|label| asked(label, &name));
    (name, ask, left)
}

/// The ask that a label tells. A call for many keys has one label, which lists
/// them: each is an ask of its own, counted from the first.
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
