//! Text from outside, made safe to display in errors, logs and tables.

use std::fmt::Write;

/// The first characters of `text`, up to `most` bytes of output and a mark where
/// more follows. Characters that a terminal or a log would interpret instead of
/// show (control characters, escape sequences, marks that change the direction of
/// the text) are escaped.
pub fn shown(text: &[u8], most: usize) -> String {
    // Each input byte that is shown produces at least one byte of output.
    let cut = &text[..text.len().min(most.saturating_add(1))];
    let mut out = String::new();
    for char in String::from_utf8_lossy(cut).chars() {
        if out.len() >= most {
            out.push('…');
            break;
        }
        match char {
            '"' | '\'' | '\\' => out.push(char),
            // Writing to a `String` does not fail.
            _ => drop(write!(out, "{}", char.escape_debug())),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            shown(b"a\x1b[31m\r\nb\x07", 99),
            "a\\u{1b}[31m\\r\\nb\\u{7}"
        );
        assert_eq!(
            shown("x\u{202e}y\u{9b}".as_bytes(), 99),
            "x\\u{202e}y\\u{9b}"
        );
        assert_eq!(shown(b"\xff!", 99), "\u{fffd}!");
        for plain in ["web-1:42", "b\u{fc}ro \"7\" o'clock \\o/", ""] {
            assert_eq!(shown(plain.as_bytes(), 99), plain);
        }
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(shown(b"abcdef", 6), "abcdef");
        assert_eq!(shown(b"abcdefg", 6), "abcdef…");
        assert!(shown(&[0x1b; 1 << 20], 100).len() < 120);
        assert!(shown("\u{fc}".repeat(100).as_bytes(), 10).len() < 20);
    }
}
