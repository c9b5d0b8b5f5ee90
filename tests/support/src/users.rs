//! The users of a server, as the guide's chapter on servers defines them.

/// The password of the user with the least rights.
pub(crate) const LEAST_PASSWORD: &str = "least";

/// The password of the default user.
pub(crate) const DEFAULT_PASSWORD: &str = "default";

/// The user with the least rights, as in the guide; as arguments of a server.
pub fn least_user(password: &str) -> Vec<String> {
    let rules = guides_rules().remove(0);
    let words = rules.into_iter();
    let words = words.map(|word| word.replace("PASSWORD", password));
    std::iter::once("--user".into()).chain(words).collect()
}

/// The rights that the guide adds for operators.
pub fn operators_rights() -> Vec<String> {
    guides_rules().remove(1).split_off(1)
}

/// The lines of the guide for copying, from the name on.
fn guides_rules() -> Vec<Vec<String>> {
    let guide = include_str!("../../../src/guide/servers.rs");
    let lines = guide.lines();
    lines
        .filter_map(|line| line.strip_prefix("//! ACL SETUSER "))
        .map(|rules| rules.split(' ').map(Into::into).collect())
        .collect()
}

/// Whether a whole run uses the least rights: `RINGLOCK_TEST_USER=least`.
pub(crate) fn is_least() -> bool {
    match std::env::var("RINGLOCK_TEST_USER").as_deref() {
        Err(_) | Ok("") => false,
        Ok("least") => true,
        Ok(other) => panic!("RINGLOCK_TEST_USER is {other:?}, and may be \"least\""),
    }
}
