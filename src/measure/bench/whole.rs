//! Whole steps and inferences.

use super::record::{BenchRecord, BenchRow, since_start};
use super::{NetworkBench, milliseconds, time};
use crate::device::{Device, Usage};
use crate::error::Result;
use crate::measure::Purpose;
use crate::measure::profile::Timed;
use crate::memory::peak_mib;
use crate::report::roofline::Point;

/// Most runs that are taken apart launch by launch.
const TAKEN_APART: usize = 5;

impl NetworkBench<'_> {
    /// Measures a loop of steps, and then each launch of some of them.
    pub(super) fn whole(
        &self,
        mut record: BenchRecord,
        purpose: Purpose,
        device: Box<dyn Device>,
    ) -> Result<(BenchRecord, Vec<Point>)> {
        let (mut session, plan) = self.model.measured(purpose, self.batch, device)?;
        session.run(plan)?;
        session.wait()?;
        record.start_to_first_step_s = since_start();
        let time = time(&mut session, plan, self.rounds, self.events)?;
        let pictures_per_s = Some(self.batch as f64 / time.time_median_s);
        record.rows.push(BenchRow { name: record.bench.clone(), time, pictures_per_s, ..BenchRow::default() });
        let Usage { persistent, arena, free } = session.device().memory();
        (record.persistent_bytes, record.arena_bytes) = (Some(persistent), Some(arena));
        record.peak_memory_bytes = match free {
            Some(_) => Some(persistent + arena),
            None => peak_mib().map(|mib| (mib * (1 << 20) as f64) as usize),
        };
        let mut timed = Timed::default();
        for _ in 0..=self.rounds.min(TAKEN_APART) {
            timed.begin();
            session.profile(plan, &mut |p| timed.add(&p))?;
        }
        let g = session.graph().clone();
        let roof = self.model.ceilings(&mut *session.into_device())?;
        let breakdown = timed.breakdown(&g, time.time_median_s, roof);
        record.ceilings = roof.map(Into::into);
        let points = breakdown.points();
        record.breakdown = Some(breakdown);
        Ok((record, points))
    }
}

/// The tables for people.
pub fn table(record: &BenchRecord) -> String {
    let mut text = record.breakdown.as_ref().map_or(String::new(), |b| b.sums());
    if let Some(roof) = &record.ceilings {
        text += &format!("\n{}", roof.text());
    }
    let mib = |bytes: Option<usize>| bytes.map_or("?".into(), |b| format!("{:.0}", b as f64 / (1 << 20) as f64));
    for r in &record.rows {
        text += &format!(
            "\n{} of {} at batch {} on {}, {}: {} ms, n {}; {:.1} pictures/s\n\
             process start to the end of the first: {} s; memory: persistent {} MiB, arena {} MiB, peak {} MiB\n",
            r.name,
            record.model.as_deref().unwrap_or("-"),
            record.batch.unwrap_or(1),
            record.device,
            record.precision,
            milliseconds(&r.time),
            r.time.n,
            r.pictures_per_s.unwrap_or(0.0),
            record.start_to_first_step_s.map_or("?".into(), |s| format!("{s:.2}")),
            mib(record.persistent_bytes),
            mib(record.arena_bytes),
            mib(record.peak_memory_bytes),
        );
    }
    text.trim_start_matches('\n').to_string()
}
