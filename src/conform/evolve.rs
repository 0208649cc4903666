//! Evolved pictures against other programs': graphs by neat-python, colours by OpenCV, archives by pyribs. Host arithmetic
//! in float64, the same on every device.

use super::cases::EXACT;
use super::{Checked, Context, Stop};
use crate::error::Result;
use crate::evolve::archive::{Archive, Axis, Cells, Elite, Status};
use crate::evolve::cppn::{Colour, Coordinates, Genome, hls, rgb_of_hls};

impl Context<'_> {
    pub(super) fn cppn(&self) -> Result<Vec<Checked>, Stop> {
        let written = self.parameters().get("genome").cloned().unwrap_or_default();
        let genome: Genome =
            serde_json::from_value(written).map_err(|e| self.bad_parameter("genome", &e.to_string()))?;
        let side = self.ranked("out", 3)?.dims[0];
        let outputs = genome.outputs(side, Coordinates::Unit);
        let bytes = |of: &dyn Fn([f64; 3]) -> [u8; 3]| -> Vec<f64> {
            outputs.iter().flat_map(|o| of(*o)).map(f64::from).collect()
        };
        let check = |tensor: &str, got: Vec<f64>, slack: f64| -> Result<Checked> {
            Ok(Checked::new(tensor, &got, &self.get(tensor)?.data, slack))
        };
        Ok(vec![
            check("out", outputs.as_flattened().to_vec(), EXACT)?,
            check("rgb", bytes(&|o| Colour::Rgb.bytes(o)), 0.0)?,
            check("hls", bytes(&hls), 0.0)?,
            check("hls_rgb", bytes(&|o| rgb_of_hls(hls(o))), 0.0)?,
        ])
    }

    pub(super) fn mapelites(&self) -> Result<Vec<Checked>, Stop> {
        if self.find("probabilities").is_some() { self.classes_of_elites() } else { self.grid_of_elites() }
    }

    /// One candidate after another; every number that was drawn is in the file.
    fn grid_of_elites(&self) -> Result<Vec<Checked>, Stop> {
        let (first, noise, choose) = (self.ranked("first", 2)?, self.ranked("noise", 2)?, self.ranked("choose", 1)?);
        let (fitness, measures) = (self.ranked("fitness", 1)?, self.ranked("measures", 2)?);
        let (width, bins) = (first.dims[1], self.pair("bins", 1)?);
        let range: [f64; 2] = serde_json::from_value(self.parameters().get("range").cloned().unwrap_or_default())
            .map_err(|_| self.bad_parameter("range", "two numbers"))?;
        if noise.dims[1] != width || fitness.data.len() != first.dims[0] + choose.data.len() || measures.dims[1] != 2 {
            return Err(self.wrong("first", "draws, fitness and measures do not fit together").into());
        }
        let axis = |bins| Axis { rating: String::new(), bins, low: range[0], high: range[1] };
        let axes = bins.map(axis);
        let mut archive = Archive::new(bins[0] * bins[1]);
        let mut got: [Vec<f64>; 6] = Default::default();
        for i in 0..fitness.data.len() {
            let (parent, solution) = match i.checked_sub(first.dims[0]) {
                None => (-1.0, first.data[i * width..][..width].to_vec()),
                Some(child) => {
                    let none = || self.wrong("choose", "there is no elite to choose");
                    let cell = archive.parent(choose.data[child]).ok_or_else(none)?;
                    let parent: &Elite<Vec<f64>> = archive.get(cell).ok_or_else(none)?;
                    let noise = &noise.data[child * width..][..width];
                    (cell as f64, parent.solution.iter().zip(noise).map(|(s, n)| s + n).collect())
                }
            };
            let cell = Cells::of(&axes, &measures.data[2 * i..][..2]);
            let status =
                archive.add(cell, Elite { solution: solution.clone(), fitness: fitness.data[i], judged: vec![] });
            let status = match status {
                Status::Refused => 0.0,
                Status::Better => 1.0,
                Status::New => 2.0,
            };
            let filled = archive.filled().count() as f64;
            got[0].extend(solution);
            let rest = [parent, cell as f64, status, filled, archive.quality(20.0)];
            got[1..].iter_mut().zip(rest).for_each(|(all, v)| all.push(v));
        }
        let check = |tensor: &str, got: &[f64], slack: f64| -> Result<Checked> {
            let want = &self.get(tensor)?.data;
            Ok(Checked::new(tensor, got, want, slack * want.iter().fold(0.0, |m: f64, w| m.max(w.abs()))))
        };
        let mut checked = vec![];
        for (tensor, got) in ["solution", "parent", "cell", "status", "occupied"].iter().zip(&got) {
            checked.push(check(tensor, got, if *tensor == "solution" { EXACT } else { 0.0 })?);
        }
        checked.push(check("qd", &got[5], EXACT)?);
        let (cells, elites): (Vec<f64>, Vec<&Elite<Vec<f64>>>) = archive.filled().map(|(i, e)| (i as f64, e)).unzip();
        checked.push(check("final_cell", &cells, 0.0)?);
        checked.push(check("final_fitness", &elites.iter().map(|e| e.fitness).collect::<Vec<_>>(), 0.0)?);
        let solutions: Vec<f64> = elites.iter().flat_map(|e| e.solution.clone()).collect();
        checked.push(check("final_solution", &solutions, EXACT)?);
        Ok(checked)
    }

    /// Every candidate competes for every class.
    fn classes_of_elites(&self) -> Result<Vec<Checked>, Stop> {
        let p = self.ranked("probabilities", 2)?;
        let mut archive = Archive::new(p.dims[1]);
        let (mut elite, mut best) = (vec![], vec![]);
        for (i, row) in p.data.chunks_exact(p.dims[1]).enumerate() {
            for (cell, &fitness) in row.iter().enumerate() {
                archive.add(cell, Elite { solution: i as f64, fitness, judged: vec![] });
            }
            elite.extend(archive.filled().map(|(_, e)| e.solution));
            best.extend(archive.filled().map(|(_, e)| e.fitness));
        }
        let check = |tensor: &str, got: &[f64]| -> Result<Checked> {
            Ok(Checked::new(tensor, got, &self.get(tensor)?.data, 0.0))
        };
        Ok(vec![check("elite", &elite)?, check("best", &best)?])
    }
}
