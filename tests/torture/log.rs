//! The history on disk: a file for each process, which may be killed at any
//! time, and a line for each record.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::history::{Action, Record, Time};

/// The clock of the history.
pub(crate) fn now() -> Time {
    ringlock_test_support::node::now().as_nanos()
}

/// The records of one process.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    by: u32,
}

impl Log {
    pub(crate) fn create(directory: &Path, by: u32) -> Arc<Self> {
        let mut options = OpenOptions::new();
        let path = directory.join(format!("{by}.jsonl"));
        let file = options.append(true).create_new(true).open(path);
        Arc::new(Self {
            file: file.expect("a new file"),
            by,
        })
    }

    pub(crate) fn write(&self, action: Action) {
        self.write_at(now(), action);
    }

    /// In one system call, so that a line is written completely or not at all.
    pub(crate) fn write_at(&self, at: Time, action: Action) {
        let by = self.by;
        let mut line = serde_json::to_vec(&Record { at, by, action }).expect("plain data");
        line.push(b'\n');
        (&self.file).write_all(&line).expect("the disk");
    }
}

/// All records in `directory`, in the order of time.
pub(crate) fn read_all(directory: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the directory") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        // The last line of a killed process may be truncated.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let record = serde_json::from_str(line);
            records.push(record.unwrap_or_else(|error| panic!("{path:?}: {error}: {line}")));
        }
    }
    records.sort_by_key(|record: &Record| record.at);
    records
}
