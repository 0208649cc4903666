//! Evolved pictures against other programs': graphs by neat-python, colours by OpenCV, archives by pyribs. Pictures are drawn by
//! the device, archives are host arithmetic in float64.

use super::cases::EXACT;
use super::{Checked, Context, Stop};
use crate::device::{Data, Session};
use crate::error::Result;
use crate::evolve::archive::{Archive, Axis, Cells, Elite, Status};
use crate::evolve::cppn::Genome;
use crate::graph::Graph;
use crate::host::pattern::{Colour, Coordinates, Drawing, hls, rooms};
use crate::ops::pattern;
use crate::plan::Options;

impl Context<'_> {
    pub(super) fn cppn(&self) -> Result<Vec<Checked>, Stop> {
        let written = self.parameters().get("genome").cloned().unwrap_or_default();
        let genome: Genome =
            serde_json::from_value(written).map_err(|e| self.bad_parameter("genome", &e.to_string()))?;
        let side = self.ranked("out", 3)?.dims[0];
        let how = |colour| Drawing { side, coordinates: Coordinates::Unit, colour };
        let outputs = genome.outputs(how(Colour::Rgb));
        let check = |tensor: &str, got: Vec<f64>, slack: f64| -> Result<Checked> {
            Ok(Checked::new(tensor, &got, &self.get(tensor)?.data, slack))
        };
        Ok(vec![
            check("out", outputs.as_flattened().to_vec(), EXACT)?,
            check("hls", outputs.iter().flat_map(|o| hls(*o)).map(f64::from).collect(), 0.0)?,
            check("rgb", self.drawn(&genome, how(Colour::Rgb))?, 0.0)?,
            check("hls_rgb", self.drawn(&genome, how(Colour::Hls))?, 0.0)?,
        ])
    }

    /// The picture as the device draws it.
    fn drawn(&self, genome: &Genome, how: Drawing) -> Result<Vec<f64>> {
        let mut g = Graph::default();
        let programs = g.input("programs", pattern::programs_type(1));
        let picture = g.push1(pattern::Pattern(how), &[programs]);
        let mut session = Session::new(g, &[&[picture]], Options::default(), self.open()?)?;
        session.write(programs, Data::U32(&rooms(1, &[genome.program()])))?;
        session.run(0)?;
        session.read64(picture)
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
