//! The mixture that embeddings are drawn from: clusters of various weights, widths and shapes.

use super::choice::WeightedChoice;
use super::normal::NormalTable;
use super::random::{Purpose, Stream, Streams};

/// Narrowest and widest cluster: the length of the noise against that of the centre, which is 1. Two rows of a
/// cluster are at cosine similarity 0.74 in the narrowest and 0.37 in the widest, on average.
const RADIUS: (f64, f64) = (0.6, 1.3);

/// Sums of squares are gathered in this many lanes, so that their order is defined and yet fit for SIMD.
const LANES: usize = 16;

/// Elements that are summed in `f32` before the sum goes on in `f64`.
const SUM_BLOCK: usize = 256;

/// Weights, centres and shapes of all clusters.
#[derive(Debug)]
pub(super) struct Clusters {
    dim: usize,
    choice: WeightedChoice,
    /// `dim` coordinates of each centre, each at once with the noise's deviation in its direction.
    shapes: Vec<Axis>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Axis {
    centre: f32,
    deviation: f32,
}

impl Clusters {
    pub(super) fn new(count: u32, dim: usize, seed: u64, normal: &NormalTable) -> Self {
        let streams = Streams::new(seed, Purpose::Cluster);
        // Exponential weights: the largest of 256 clusters holds 6 times the mean, the smallest next to nothing.
        let weights = (0..count as usize).map(|cluster| -libm::log(streams.at(cluster as u64).unit()));
        let choice = WeightedChoice::new(weights);
        let mut shapes = vec![Axis::default(); count as usize * dim];
        for (cluster, shape) in shapes.chunks_exact_mut(dim).enumerate() {
            let mut stream = streams.at(u64::from(count) + cluster as u64);
            draw_shape(shape, &mut stream, normal);
        }
        Self { dim, choice, shapes }
    }

    /// Draws a cluster by its weight.
    pub(super) fn draw(&self, stream: &mut Stream) -> u32 {
        self.choice.draw(stream) as u32
    }

    /// Draws a vector of length 1 from a cluster; `out` has the mixture's dimension.
    pub(super) fn draw_vector(
        &self,
        cluster: u32,
        stream: &mut Stream,
        normal: &NormalTable,
        out: &mut [f32],
    ) {
        let shape = &self.shapes[cluster as usize * self.dim..][..self.dim];
        let (fours, rest) = out.as_chunks_mut::<4>();
        let (axes, last_axes) = shape.as_chunks::<4>();
        for (four, axes) in fours.iter_mut().zip(axes) {
            let bits = stream.next();
            for lane in 0..4 {
                four[lane] = axes[lane].centre + axes[lane].deviation * normal.at(bits >> (16 * lane));
            }
        }
        let mut bits = stream.next();
        for (element, axis) in rest.iter_mut().zip(last_axes) {
            *element = axis.centre + axis.deviation * normal.at(bits);
            bits >>= 16;
        }
        normalise(out);
    }

    /// Bytes of the tables.
    pub(super) fn bytes(count: u32, dim: usize) -> u64 {
        let shapes = u64::from(count).saturating_mul(dim as u64).saturating_mul(size_of::<Axis>() as u64);
        shapes.saturating_add(WeightedChoice::bytes(u64::from(count)))
    }

    /// The share of rows that a cluster gets.
    #[cfg(test)]
    pub(super) fn share(&self, cluster: usize) -> f64 {
        self.choice.share(cluster)
    }
}

/// A centre in any direction; noise whose variance falls as 1/rank along the axes, in an order of the cluster's
/// own: of 1536 dimensions about 40 matter, as in embeddings of texts, and neighbours stay meaningful.
fn draw_shape(shape: &mut [Axis], stream: &mut Stream, normal: &NormalTable) {
    let dim = shape.len();
    let mut centre: Vec<f32> = (0..dim).map(|_| normal.at(stream.next())).collect();
    normalise(&mut centre);
    let mut ranks: Vec<u32> = (1..=dim as u32).collect();
    for last in (1..dim).rev() {
        ranks.swap(last, stream.below(last as u64 + 1) as usize);
    }
    let radius = RADIUS.0 + (RADIUS.1 - RADIUS.0) * stream.unit();
    let total: f64 = (1..=dim).map(|rank| 1.0 / rank as f64).sum();
    for ((axis, centre), rank) in shape.iter_mut().zip(centre).zip(ranks) {
        let deviation = radius * libm::sqrt(1.0 / (f64::from(rank) * total));
        *axis = Axis { centre, deviation: deviation as f32 };
    }
}

/// Scales a vector to length 1; one of zeros becomes the first axis.
fn normalise(vector: &mut [f32]) {
    let squares = sum_of_squares(vector);
    if squares < f64::from(f32::MIN_POSITIVE) {
        vector.fill(0.0);
        vector[0] = 1.0;
        return;
    }
    let scale = (1.0 / libm::sqrt(squares)) as f32;
    vector.iter_mut().for_each(|element| *element *= scale);
}

fn sum_of_squares(vector: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in vector.chunks(SUM_BLOCK) {
        let mut sums = [0.0f32; LANES];
        let (wide, rest) = block.as_chunks::<LANES>();
        for elements in wide {
            for lane in 0..LANES {
                sums[lane] += elements[lane] * elements[lane];
            }
        }
        for (sum, element) in sums.iter_mut().zip(rest) {
            *sum += element * element;
        }
        total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
    }
    total
}
