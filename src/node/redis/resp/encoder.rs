//! Commands as a server reads them: RESP arrays and bulk strings.

/// Appends one command.
pub(crate) fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    array(out, parts.len());
    parts.iter().for_each(|part| bulk(out, part));
}

pub(crate) fn array(out: &mut Vec<u8>, len: usize) {
    number(out, b'*', len);
}

pub(crate) fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn number(out: &mut Vec<u8>, kind: u8, number: usize) {
    let digit = |number: usize| b'0' + number as u8;
    match number {
        // Most lengths and counts.
        0..10 => out.extend_from_slice(&[kind, digit(number), b'\r', b'\n']),
        10..100 => {
            let (tens, ones) = (digit(number / 10), digit(number % 10));
            out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
        }
        _ => {
            out.push(kind);
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

pub(crate) fn bulk_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    bulk(out, itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_have_their_digits() {
        for number in [0, 9, 10, 19, 90, 99, 100, 101, 12_345, usize::MAX] {
            let mut out = Vec::new();
            super::number(&mut out, b'$', number);
            assert_eq!(out, format!("${number}\r\n").as_bytes());
        }
    }
}
