//! What a classifier says of pictures whose class is known: how often each class is taken for each.

use crate::data::table::quoted;
use serde::{Deserialize, Serialize};

/// Counts of pictures by their class and by the class they are taken for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    pub classes: Vec<String>,
    /// [class, taken for].
    pub counts: Vec<u32>,
}

/// The class of the largest score; of equal ones the first.
pub fn likeliest(scores: &[f32]) -> usize {
    (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

impl Confusion {
    /// Of pairs (class, taken for), both below the number of classes.
    pub fn of(classes: &[impl AsRef<str>], pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let n = classes.len();
        let mut counts = vec![0; n * n];
        pairs.into_iter().for_each(|(class, taken)| counts[class * n + taken] += 1);
        Self { classes: classes.iter().map(|c| c.as_ref().to_string()).collect(), counts }
    }

    /// One row a class.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.counts.chunks_exact(self.classes.len())
    }

    pub fn pictures(&self) -> u32 {
        self.counts.iter().sum()
    }

    fn right(&self) -> impl Iterator<Item = u32> {
        self.rows().enumerate().map(|(i, row)| row[i])
    }

    /// Pictures taken for what they are, in percent; None for no pictures.
    pub fn accuracy(&self) -> Option<f64> {
        let n = self.pictures();
        (n > 0).then(|| 100.0 * f64::from(self.right().sum::<u32>()) / f64::from(n))
    }

    /// The mean over the classes that occur of each class's accuracy, in percent: rare ones count as much as frequent ones.
    pub fn class_accuracy(&self) -> Option<f64> {
        let each = self.rows().zip(self.right()).map(|(row, right)| (row.iter().sum::<u32>(), right));
        let each: Vec<f64> = each.filter(|c| c.0 > 0).map(|(n, right)| f64::from(right) / f64::from(n)).collect();
        (!each.is_empty()).then(|| 100.0 * each.iter().sum::<f64>() / each.len() as f64)
    }

    /// Counts the pictures of another one of the same classes too.
    pub fn add(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "the same classes");
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// `true_class`, then one column of counts for each class that a picture is taken for; one row a class.
    pub fn csv(&self) -> String {
        let header: Vec<_> = self.classes.iter().map(|c| quoted(c)).collect();
        let mut text = format!("true_class,{}\n", header.join(","));
        for (class, row) in header.iter().zip(self.rows()) {
            let counts: Vec<String> = row.iter().map(u32::to_string).collect();
            text.push_str(&format!("{class},{}\n", counts.join(",")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_by_hand() {
        let pairs = [(0, 0), (0, 0), (0, 1), (0, 0), (1, 1), (1, 0)];
        let mut c = Confusion::of(&["a", "b,c", "none"], pairs);
        assert_eq!(c.counts, [3, 1, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!((c.pictures(), c.accuracy(), c.class_accuracy()), (6, Some(400.0 / 6.0), Some(62.5)));
        assert_eq!(c.csv(), "true_class,a,\"b,c\",none\na,3,1,0\n\"b,c\",1,1,0\nnone,0,0,0\n");
        c.add(&c.clone());
        assert_eq!((c.pictures(), c.rows().next()), (12, Some(&[6, 2, 0][..])));
        let none = Confusion::of(&["a", "b"], []);
        assert_eq!((none.accuracy(), none.class_accuracy()), (None, None));
    }

    #[test]
    fn the_first_of_equal_scores() {
        assert_eq!([likeliest(&[1.0, 3.0, 3.0]), likeliest(&[-1.0, -2.0]), likeliest(&[0.0; 4])], [1, 0, 0]);
    }
}
