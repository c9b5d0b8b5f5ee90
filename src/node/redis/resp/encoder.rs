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
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn bulk_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    bulk(out, itoa::Buffer::new().format(number).as_bytes());
}
