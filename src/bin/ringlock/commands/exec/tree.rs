//! The processes that a command started.

use rustix::process::Pid;

/// A living process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    parent: Option<Pid>,
    pub(super) group: Option<Pid>,
    session: Option<Pid>,
}

impl Process {
    /// Reads a line of `/proc/PID/stat`; none for a process that has ended.
    fn read(line: &str) -> Option<Self> {
        let (pid, rest) = line.split_once(" (")?;
        // The name may itself contain brackets and spaces.
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        if matches!(fields.next()?, "Z" | "X" | "x") {
            return None;
        }
        let mut number = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
        Some(Self {
            pid: Pid::from_raw(pid.parse().ok()?)?,
            parent: number()?,
            group: number()?,
            session: number()?,
        })
    }
}

/// The living descendants of `root` in its own session. A process that started
/// its own session detached itself on purpose.
///
/// This needs a `/proc` that lists them; without one there are none.
pub(super) fn descendants(root: Pid) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let all = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.parse::<u32>().ok()?;
        let stat = std::fs::read(path.join("stat")).ok()?;
        Process::read(&String::from_utf8_lossy(&stat))
    });
    below(root, all.collect())
}

fn below(root: Pid, mut all: Vec<Process>) -> Vec<Process> {
    let own = all.iter().find(|process| process.pid == root);
    let session = own.and_then(|process| process.session);
    all.retain(|process| process.pid != root);
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let (children, others) = all
            .into_iter()
            .partition(|process| process.parent == Some(parent));
        all = others;
        parents.extend(children.iter().map(|child: &Process| child.pid));
        found.extend(children);
    }
    found.retain(|process| process.session == session);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(line: &str) -> Option<Process> {
        Process::read(line)
    }

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        let read = process("12 (a) R 1 (b) S 3 4 5 0 -1 4194304").unwrap();
        let numbers = [Some(read.pid), read.parent, read.group, read.session];
        assert_eq!(numbers.map(Pid::as_raw), [12, 3, 4, 5]);
        assert_eq!(process("12 (sh) Z 3 4 5 0"), None, "it has ended");
        for line in ["", "12 (sh", "12 (sh) S", "12 (sh) S 3 4", "x (sh) S 3 4 5"] {
            assert_eq!(process(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_tree_is_followed_within_the_session() {
        let lines = [
            "10 (root) S 1 10 7 0",
            "11 (command) S 10 11 7 0",
            "12 (child) S 11 11 7 0",
            "13 (in a group of its own) S 12 13 7 0",
            "14 (daemon) S 12 14 14 0",
            "15 (a stranger) S 1 15 7 0",
        ];
        let all = lines.iter().map(|line| process(line).unwrap()).collect();
        let root = Pid::from_raw(10).unwrap();
        let mut found: Vec<i32> = below(root, all)
            .iter()
            .map(|process| process.pid.as_raw_nonzero().get())
            .collect();
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13]);
    }

    #[test]
    fn the_system_reports_a_child() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let found = descendants(rustix::process::getpid());
        assert!(found.iter().any(|process| process.pid == pid), "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        let found = descendants(rustix::process::getpid());
        assert!(found.iter().all(|process| process.pid != pid), "{found:?}");
    }
}
