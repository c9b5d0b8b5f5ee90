//! Numbers of 128 bits as hex digits, without a loop over the digits: tokens and
//! view ids are written for every request.

/// The number of digits.
pub(crate) const DIGITS: usize = 32;

/// The lower-case digits of `number`.
pub(crate) fn digits(number: u128) -> [u8; DIGITS] {
    let mut digits = [0; DIGITS];
    for (part, out) in digits.chunks_exact_mut(8).enumerate() {
        let part = (number >> (96 - 32 * part)) as u32;
        out.copy_from_slice(&of_eight(part).to_be_bytes());
    }
    digits
}

/// The digits of a number of 32 bits, one in each byte.
fn of_eight(number: u32) -> u64 {
    // Each step halves the width of the parts, down to one digit in each byte.
    let halves = u64::from(number);
    let quarters = (halves | halves << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (quarters | quarters << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that needs a letter.
    let letters = ((nibbles + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard_library() {
        let numbers = [
            0,
            1,
            u128::MAX,
            0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            0x9a9a_a9a9_0f0f_f0f0_ffff_0000_0000_ffff,
        ];
        let shifted = (0..128).map(|shift| 0xfa_u128.rotate_left(shift));
        for number in numbers.into_iter().chain(shifted) {
            assert_eq!(digits(number), format!("{number:032x}").as_bytes());
        }
    }
}
