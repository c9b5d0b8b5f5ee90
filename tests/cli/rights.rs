//! The rights that the program's user needs.

use std::io::Write;

use crate::testbed::{TOKEN, Testbed};
use ringlock_test_support::{RedisServer, least_user, operators_rights};

/// The guide's user with the operators' rights can inspect everything, and
/// every right is necessary.
#[test]
fn as_the_guide_has_them() {
    let user = least_user("s3cret");
    let mut arguments = vec!["--appendonly", "yes", "--appendfsync", "always"];
    arguments.extend(user.iter().map(String::as_str));
    let (server, port) = RedisServer::start_on_tcp(&arguments);
    let testbed = Testbed::of(vec![server], 1);
    testbed.configure(
        &[format!("redis://ringlock:s3cret@127.0.0.1:{port}")],
        1,
        "",
    );
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(testbed.file())
        .unwrap();
    writeln!(file, "durable = true").unwrap();
    let server = &testbed.servers[0];
    testbed.init();
    let look = || {
        testbed.set(0, "k", TOKEN, 60_000);
        let commands: [&[&str]; 5] = [
            &["status"],
            &["doctor"],
            &["locks"],
            &["locks", "--key", "k"],
            &["release", "k", "--force"],
        ];
        commands.map(|command| testbed.run(command).code)
    };
    let rights = operators_rights();
    server.set_user(
        "ringlock",
        &rights.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    server.denied();
    assert_eq!(look(), [0; 5]);
    assert_eq!(server.denied(), [""; 0]);
    for right in rights.iter().map(|right| right.trim_start_matches('+')) {
        server.set_user("ringlock", &[&format!("-{right}")]);
        let codes = look();
        let denied = server.denied();
        let command = right.split('|').next().unwrap();
        assert!(
            denied
                .iter()
                .any(|object| object == right || object == command),
            "nobody needs {right}: {codes:?}, {denied:?}"
        );
        server.set_user("ringlock", &[&format!("+{right}")]);
    }
}
