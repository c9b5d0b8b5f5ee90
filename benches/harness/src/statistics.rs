//! Figures from many measurements.

/// The value in the middle; NaN if there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The ratio of `own` to `other`, round by round.
pub fn ratios(own: &[f64], other: &[f64]) -> Vec<f64> {
    own.iter().zip(other).map(|(a, b)| a / b).collect()
}

/// The value that this share of all values does not exceed, from 0 to 1; the
/// default value if there are none. Sorts the values.
pub fn percentile<T: Copy + Default + Ord>(values: &mut [T], share: f64) -> T {
    values.sort_unstable();
    let index = (values.len() as f64 * share) as usize;
    let last = values.len().saturating_sub(1);
    values.get(index.min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        // The machine became ten times slower: the ratio is the same.
        let ratios = ratios(&[20.0, 2.0, 20.0], &[10.0, 1.0, 10.0]);
        assert_eq!(ratios, [2.0, 2.0, 2.0]);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_are_values() {
        let mut values: Vec<u64> = (1..=100).rev().collect();
        let shares = [0.0, 0.5, 0.99, 1.0];
        let found = shares.map(|share| percentile(&mut values, share));
        assert_eq!(found, [1, 51, 100, 100]);
        assert_eq!(percentile::<u64>(&mut [], 0.5), 0);
    }
}
