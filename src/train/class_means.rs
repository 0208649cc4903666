/*! Classes told by ratings: what is rated is taken for the class whose mean ratings lie nearest, by Euclid's distance
(scikit-learn's `NearestCentroid`). So a model that rates can be held against one that tells classes apart. */

/// The mean ratings of each class.
pub struct ClassMeans(Vec<Option<Vec<f64>>>);

impl ClassMeans {
    /// Of (class, ratings, how much they count), the class below `classes`. A class that nothing counts for has no mean.
    pub fn of<'a>(classes: usize, rated: impl IntoIterator<Item = (usize, &'a [f32], f64)>) -> Self {
        let mut sums: Vec<(Vec<f64>, f64)> = vec![(vec![], 0.0); classes];
        for (class, ratings, weight) in rated {
            let (sum, all) = &mut sums[class];
            sum.resize(ratings.len(), 0.0);
            sum.iter_mut().zip(ratings).for_each(|(sum, x)| *sum += weight * f64::from(*x));
            *all += weight;
        }
        let mean = |(sum, all): (Vec<f64>, f64)| (all > 0.0).then(|| sum.into_iter().map(|x| x / all).collect());
        Self(sums.into_iter().map(mean).collect())
    }

    /// The class of the nearest mean, of equally near ones the first; None where no class has one.
    pub fn nearest(&self, ratings: &[f32]) -> Option<usize> {
        let far = |mean: &Vec<f64>| mean.iter().zip(ratings).map(|(m, x)| (m - f64::from(*x)).powi(2)).sum::<f64>();
        let all = self.0.iter().enumerate().filter_map(|(class, mean)| Some((class, far(mean.as_ref()?))));
        all.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(class, _)| class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Means (2, 2) and (8, 3), the second of (9, 2) once and (7.5, 3.5) twice; nothing of the third.
        let rated: [(usize, &[f32], f64); 5] = [
            (0, &[1.0, 2.0], 1.0),
            (0, &[3.0, 2.0], 1.0),
            (1, &[9.0, 2.0], 1.0),
            (1, &[7.5, 3.5], 2.0),
            (2, &[5.0, 9.0], 0.0),
        ];
        let means = ClassMeans::of(3, rated);
        assert_eq!(means.0[1], Some(vec![8.0, 3.0]));
        let told = [[2.0, 9.0], [6.0, 1.0], [5.0, 2.5], [5.0, 2.4]].map(|x| means.nearest(&x));
        // (5, 2.5) is as far from both.
        assert_eq!(told, [Some(0), Some(1), Some(0), Some(0)]);
        assert_eq!(ClassMeans::of(2, []).nearest(&[5.0]), None);
    }

    /// `sklearn.neighbors.NearestCentroid().fit(x, y).predict(z)` of scikit-learn 1.9.1, with
    /// x = np.random.RandomState(7).uniform(1, 9, (12, 3)).round(1), y = [0, 1, 2] * 4 and z drawn next in the same way.
    #[test]
    fn as_scikit_learn() {
        const X: [[f32; 3]; 12] = [
            [1.6, 7.2, 4.5],
            [6.8, 8.8, 5.3],
            [5.0, 1.6, 3.1],
            [5.0, 6.4, 7.4],
            [4.0, 1.5, 3.3],
            [8.3, 2.7, 4.6],
            [8.4, 1.2, 5.8],
            [8.6, 2.8, 5.4],
            [8.3, 2.1, 5.2],
            [7.0, 6.4, 4.7],
            [2.6, 4.9, 4.0],
            [4.8, 3.9, 7.7],
        ];
        const Z: [[f32; 3]; 12] = [
            [7.1, 3.5, 5.6],
            [3.2, 4.6, 3.8],
            [6.3, 4.0, 4.7],
            [6.8, 4.3, 8.3],
            [2.4, 6.9, 4.4],
            [4.4, 6.1, 5.2],
            [4.3, 1.0, 1.7],
            [6.7, 5.2, 6.6],
            [8.6, 6.5, 1.4],
            [3.5, 5.7, 2.9],
            [8.7, 8.6, 7.8],
            [4.8, 7.7, 2.0],
        ];
        const TOLD: [usize; 12] = [2, 1, 1, 0, 0, 0, 2, 0, 1, 1, 0, 1];
        let means = ClassMeans::of(3, X.iter().enumerate().map(|(i, x)| (i % 3, &x[..], 1.0)));
        assert_eq!(Z.map(|z| means.nearest(&z).unwrap()), TOLD);
    }
}
