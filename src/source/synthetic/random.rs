//! Random numbers that are a function of their place: a stream for each row and purpose.
//!
//! SplitMix64 with a gamma for each stream, after Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
//! Generators" (OOPSLA 2014). Integers only, so the numbers are the same on any machine.

/// 2^64 by the golden ratio, odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// What streams are for; streams of different purposes share nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Weights, centres and shapes of clusters.
    Cluster = 1,
    /// All of a row but its embedding.
    Row = 2,
    /// A row's embedding.
    Embedding = 3,
    /// Cluster and channel of a query.
    Query = 4,
    /// A query's vector.
    QueryEmbedding = 5,
}

/// The streams of one purpose under one seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    base: u64,
}

impl Streams {
    pub(super) fn new(seed: u64, purpose: Purpose) -> Self {
        Self { base: mix(seed ^ mix(purpose as u64)) }
    }

    /// The stream of an index; `mix` is a bijection, so each index has a start of its own.
    pub(super) fn at(&self, index: u64) -> Stream {
        let state = mix(self.base.wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)));
        Stream { state, gamma: mix_gamma(state.wrapping_add(GOLDEN_GAMMA)) }
    }
}

/// A sequence of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    state: u64,
    gamma: u64,
}

impl Stream {
    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.gamma);
        mix(self.state)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number above 0 and below 1.
    pub(super) fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }
}

/// Stafford's variant 13 of MurmurHash3's finaliser.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// An odd number whose bits change often enough for a good sequence.
fn mix_gamma(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits = (bits ^ (bits >> 33)) | 1;
    if (bits ^ (bits >> 1)).count_ones() < 24 { bits ^ 0xaaaa_aaaa_aaaa_aaaa } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixer_is_splitmix64s() {
        // The first outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567.
        let mut stream = Stream { state: 1_234_567, gamma: GOLDEN_GAMMA };
        let first = [stream.next(), stream.next(), stream.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_fill_their_range_evenly() {
        let mut counts = [0u32; 10];
        let streams = Streams::new(7, Purpose::Row);
        for index in 0..100_000 {
            counts[streams.at(index).below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
        let mut stream = streams.at(0);
        assert!((0..1000).map(|_| stream.unit()).all(|unit| unit > 0.0 && unit < 1.0));
    }
}
