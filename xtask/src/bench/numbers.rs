//! The arithmetic of the figures.

/// The value that half of them are below; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The smallest value that this part of them, in per cent, is not above; 0 of none.
pub(crate) fn percentile(values: &[f64], per_cent: f64) -> f64 {
    let rank = (values.len() as f64 * per_cent / 100.0).ceil().max(1.0) as usize;
    sorted(values).get(rank.min(values.len()).saturating_sub(1)).copied().unwrap_or(0.0)
}

/// From the smallest to the largest, in per cent of the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) if *first < *last => (last - first) / median(values) * 100.0,
        _ => 0.0,
    }
}

/// What each has of the sum, in per cent.
pub(crate) fn shares(amounts: &[f64]) -> Vec<f64> {
    let sum: f64 = amounts.iter().sum();
    amounts.iter().map(|amount| if sum > 0.0 { amount / sum * 100.0 } else { 0.0 }).collect()
}

/// How far a share is from what it should be, in percentage points: the farthest.
pub(crate) fn largest_deviation(amounts: &[f64], wanted: &[f64]) -> f64 {
    let pairs = shares(amounts).into_iter().zip(shares(wanted));
    pairs.map(|(share, wanted)| (share - wanted).abs()).fold(0.0, f64::max)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::{largest_deviation, median, percentile, shares, spread};

    #[test]
    fn a_median_is_between_the_two_halves() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred_and_so_many_are_not_above_it() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (per_cent, value) in [(99.0, 99.0), (50.0, 50.0), (100.0, 100.0), (0.0, 1.0), (99.5, 100.0)] {
            assert_eq!(percentile(&hundred, per_cent), value);
        }
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert_eq!(percentile(&[], 99.0), 0.0);
        // Of few values the largest counts: nothing is hidden.
        assert_eq!(percentile(&[1.0, 2.0, 30.0], 99.0), 30.0);
    }

    #[test]
    fn the_spread_is_in_per_cent_of_the_median() {
        assert_eq!(spread(&[90.0, 100.0, 120.0]), 30.0);
        assert_eq!(spread(&[5.0]), 0.0);
        assert_eq!(spread(&[]), 0.0);
    }

    #[test]
    fn deviations_are_in_points_of_the_whole_whatever_the_units() {
        assert_eq!(shares(&[1.0, 3.0]), [25.0, 75.0]);
        assert_eq!(largest_deviation(&[10.0, 20.0, 40.0], &[1.0, 2.0, 4.0]), 0.0);
        assert_eq!(largest_deviation(&[1.0, 1.0], &[1.0, 3.0]), 25.0);
        // One that stood still is as far off as it can be.
        assert_eq!(largest_deviation(&[0.0, 1.0], &[1.0, 1.0]), 50.0);
        assert_eq!(largest_deviation(&[0.0, 0.0], &[1.0, 1.0]), 50.0);
    }
}
