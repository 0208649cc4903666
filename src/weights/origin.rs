/*! Whose numbers a file in torchvision's names has. Oxford's Caffe networks go round under those names, and want other
pictures: BGR from 0 to 255 instead of RGB by mean and deviation. The numbers of either are finite under the other, and
every answer is wrong. The first filters tell: Caffe's are known, and those for pictures of another scale are of another
scale. */

/// Our name of the first filters.
pub const LAYER: &str = "conv1_1.weight";

/// The centre of each of the 64 first filters of VGG_ILSVRC_16_layers, blue, green and red, in thousandths. Fine-tuning
/// hardly moves them, and the 19 layers began with the same.
const CAFFE: [i16; 192] = [
    39, 41, 50, 202, 66, -178, 156, 220, 151, -362, -425, -394, 176, 206, 244, 268, -236, -103, -53, -43, -76, -149,
    -107, -35, 77, -336, 205, 98, -92, -145, 490, 528, 506, 88, 254, 89, -106, 438, -145, 172, 118, -60, -399, -437,
    -404, 29, -330, 38, -112, -149, 226, 104, 206, 113, 112, -335, -20, -156, -207, 190, 91, -118, -131, -76, -85, -25,
    179, -52, -219, 0, -277, -117, 27, 85, -64, 153, 161, -173, -104, -109, -101, -129, 265, 122, -433, -465, -431,
    -178, 12, 279, 170, 221, 140, -15, 5, 42, -63, -7, 123, 284, 115, 265, 374, 402, 378, 142, 163, 154, 89, 39, -228,
    334, 362, 381, 4, 74, -99, 19, -249, -173, 24, 240, 36, -169, -407, -270, 20, 25, 13, -332, -323, -307, 139, 221,
    61, -246, -265, -251, 117, 244, 302, -8, -5, -11, -30, 21, 84, 23, -155, -236, 42, 163, -155, -221, -266, -241,
    -150, -278, 1, -136, -57, 13, -34, -203, -123, 14, 95, -122, -104, -264, -116, -129, -412, -242, 274, 298, 293,
    -287, 176, 195, 142, 169, 144, -52, -4, -14, 257, 269, 259, 372, 410, 424,
];

/// How alike filters are that have a common origin: unrelated ones correlate by 0.1 at most over so many numbers.
const ALIKE: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Oxford's, in Caffe's order and scale.
    Caffe,
    /// Nobody knows which pictures these are for: Oxford's turned to RGB or scaled, or filters for no pictures of
    /// deviation 1.
    Unclear,
    /// Trained on pictures of deviation 1, by all that is to be seen.
    Other,
}

/// Of filters [K,3,3,3] in our layout.
pub fn of(filters: &[f32]) -> Origin {
    if filters.len() != CAFFE.len() * 9 {
        return Origin::Other;
    }
    let centre: Vec<f64> = filters.chunks_exact(27).flat_map(|f| &f[12..15]).map(|x| f64::from(*x)).collect();
    let theirs: Vec<f64> = CAFFE.iter().map(|x| f64::from(*x) / 1000.0).collect();
    let turned: Vec<f64> = theirs.chunks_exact(3).flat_map(|f| [f[2], f[1], f[0]]).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = |a: &[f64]| dot(a, a).sqrt();
    let alike = |other: &[f64]| dot(&centre, other) / (length(&centre) * length(other));
    let (bgr, rgb) = (alike(&theirs), alike(&turned));
    if bgr.max(rgb) >= ALIKE {
        let scale = length(&centre) / length(&theirs);
        return if bgr >= rgb && (0.25..4.0).contains(&scale) { Origin::Caffe } else { Origin::Unclear };
    }
    // Root mean square: that of networks for pictures of deviation 1 is 0.1 to 0.4.
    let size = (filters.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / filters.len() as f64).sqrt();
    if (0.02..2.0).contains(&size) { Origin::Other } else { Origin::Unclear }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::init::{Rule, draw};

    #[test]
    fn caffes_numbers_are_told_by_their_filters() {
        let noise = draw("w", &[64, 3, 3, 3], 1, Rule::He).unwrap();
        let with = |scale: f32, turned: bool, noise_part: f32| -> Vec<f32> {
            let mut w: Vec<f32> = noise.iter().map(|x| x * noise_part).collect();
            for (i, x) in CAFFE.iter().enumerate() {
                let c = if turned { 2 - i % 3 } else { i % 3 };
                w[i / 3 * 27 + 12 + c] += f32::from(*x) / 1000.0 * scale;
            }
            w
        };
        assert_eq!(of(&with(1.0, false, 0.1)), Origin::Caffe);
        // Fine-tuned until a quarter of it is something else.
        assert_eq!(of(&with(1.0, false, 0.3)), Origin::Caffe);
        assert_eq!(of(&with(1.0, true, 0.1)), Origin::Unclear);
        assert_eq!(of(&with(57.0, false, 0.1)), Origin::Unclear);
        assert_eq!(of(&noise), Origin::Other);
        for scale in [1.0 / 57.0, 57.0] {
            assert_eq!(of(&noise.iter().map(|x| x * scale).collect::<Vec<f32>>()), Origin::Unclear);
        }
        assert_eq!(of(&noise[..27]), Origin::Other);
    }
}
