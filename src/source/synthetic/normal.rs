//! Normal deviates from a table: 16 random bits choose one of 65,536 quantiles.
//!
//! Computed once with functions that are the same on every platform, and then only looked up.

const QUANTILES: usize = 1 << 16;

/// The middles of 65,536 equally likely slices of the normal distribution.
#[derive(Debug)]
pub(super) struct NormalTable {
    quantiles: Box<[f32; QUANTILES]>,
}

impl NormalTable {
    pub(super) fn new() -> Self {
        let mut quantiles = Box::new([0.0; QUANTILES]);
        for index in 0..QUANTILES / 2 {
            let low = quantile((index as f64 + 0.5) / QUANTILES as f64) as f32;
            quantiles[index] = low;
            // Exactly symmetric, so that the mean is exactly 0.
            quantiles[QUANTILES - 1 - index] = -low;
        }
        Self { quantiles }
    }

    /// The quantile of the lowest 16 bits.
    #[inline]
    pub(super) fn at(&self, bits: u64) -> f32 {
        self.quantiles[usize::from(bits as u16)]
    }

    /// Bytes of the table.
    pub(super) fn bytes() -> usize {
        QUANTILES * size_of::<f32>()
    }
}

/// The normal quantile of a probability in (0, 0.5]: PPND16 of algorithm AS 241 (Wichura, Applied Statistics 37,
/// 1988), good to 16 digits.
fn quantile(probability: f64) -> f64 {
    const CENTRE_OVER: [f64; 8] = [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ];
    const CENTRE_UNDER: [f64; 8] = [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_545e3,
    ];
    const TAIL_OVER: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ];
    const TAIL_UNDER: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    let from_centre = probability - 0.5;
    if from_centre >= -0.425 {
        let square = 0.180_625 - from_centre * from_centre;
        return from_centre * polynomial(&CENTRE_OVER, square) / polynomial(&CENTRE_UNDER, square);
    }
    // The table's outermost probability is 2^-17, where this stays below 5 and AS 241 needs no third case.
    let tail = libm::sqrt(-libm::log(probability)) - 1.6;
    -polynomial(&TAIL_OVER, tail) / polynomial(&TAIL_UNDER, tail)
}

/// Coefficients from the constant up, by Horner.
fn polynomial(coefficients: &[f64; 8], at: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * at + coefficient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        // From tables of the distribution (scipy.stats.norm.ppf).
        for (probability, expected) in [
            (0.5, 0.0),
            (0.25, -0.674_489_750_196_081_7),
            (0.025, -1.959_963_984_540_054_5),
            (0.001, -3.090_232_306_167_813_5),
            (1e-5, -4.264_890_793_922_825),
        ] {
            let found = quantile(probability);
            assert!((found - expected).abs() < 1e-14 * 10.0, "{probability}: {found}, not {expected}");
        }
    }

    #[test]
    fn the_tables_moments_are_those_of_the_normal_distribution() {
        let table = NormalTable::new();
        let moment = |power: i32| {
            table.quantiles.iter().map(|value| f64::from(*value).powi(power)).sum::<f64>() / QUANTILES as f64
        };
        assert_eq!(moment(1), 0.0);
        assert!((moment(2) - 1.0).abs() < 1e-4, "variance {}", moment(2));
        assert!(moment(3).abs() < 1e-9, "skewness {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.01, "kurtosis {}", moment(4));
        assert!(table.quantiles.is_sorted());
    }
}
