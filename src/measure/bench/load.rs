//! The loader: files to squares by thread count, the cache they are kept in, and batches out of it.

use super::record::{BenchRecord, BenchRow, WallTime};
use super::{Earlier, go_on, milliseconds};
use crate::bundled;
use crate::data::{DecodeOptions, LoadOptions, Manifest, Pictures, Source};
use crate::error::{Error, Result};
use crate::experiment::{Events, trained};
use crate::preprocess::{Resize, View};
use crate::rng::{Rng, Stream};
use crate::table::{number, text_table};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A folder that goes when this goes.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        // What somebody else has put under such a name is not used.
        let process = std::process::id();
        let names = (0..).map(|n| std::env::temp_dir().join(format!("deep-affect-bench-{process}-{n}")));
        for path in names {
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                made => return made.map(|()| Self(path.clone())).map_err(|e| Error::io(&path, "create the folder", e)),
            }
        }
        unreachable!("there are always more names")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The benchmark of the loader.
pub struct LoaderBench<'a> {
    /// A manifest, or a folder of pictures; the bundled photographs without one.
    pub pictures: Option<&'a Path>,
    /// Side of the squares, in pixels.
    pub side: usize,
    pub batch: usize,
    /// Most threads that decode; all cores without a number.
    pub threads: Option<usize>,
    /// Samples of each time after one that does not count.
    pub rounds: usize,
    /// An earlier run, which is refused before anything is measured if it is of something else.
    pub earlier: Option<&'a Earlier>,
    pub command: String,
    pub events: &'a dyn Events,
}

/// What was measured of the loader.
pub struct LoaderTimes {
    pub record: BenchRecord,
    pictures: usize,
    side: usize,
    cores: usize,
    encoded_bytes: f64,
    square_bytes: f64,
}

impl LoaderBench<'_> {
    /// # Errors
    /// No pictures, a temporary folder that cannot be written, an earlier run of something else, or a stop.
    pub fn run(&self) -> Result<LoaderTimes> {
        let sources = self.sources()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or(cores);
        let device = format!("{cores} CPU threads");
        let mut record = BenchRecord { batch: Some(self.batch), ..BenchRecord::empty("load", device, &self.command) };
        self.earlier.map_or(Ok(()), |earlier| earlier.alike(&record))?;
        let view = View { side: self.side, resize: Resize::SquashBilinear, grey: false, crop: None };
        let options = |cache_dir| LoadOptions { views: vec![view], decode: DecodeOptions::default(), cache_dir };
        let load = |options: &LoadOptions| Pictures::load(&sources, options, &())?.accept(true);
        let encoded = sources.iter().map(bytes).sum::<u64>() as f64;
        let counts = std::iter::successors(Some(1), |n| (*n < threads).then_some((2 * n).min(threads)));
        let mut kept = None;
        for n in counts {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
            let pool = pool.map_err(|e| Error::job(format!("cannot start {n} threads: {e}")))?;
            let time = self.samples(|| pool.install(|| load(&options(None))).map(|p| kept = Some(p)))?;
            let name = format!("decode and resize, {n} thread{}", if n == 1 { "" } else { "s" });
            record.rows.push(row(&name, time, sources.len(), encoded));
        }
        let pictures = kept.ok_or_else(|| Error::job("nothing was decoded"))?;
        let squares = pictures.bytes().len() as f64;
        drop(pictures);
        let folder = Temporary::new()?;
        let cached = options(Some(folder.0.clone()));
        let fresh = || {
            let _ = std::fs::remove_dir_all(&folder.0);
            load(&cached).map(drop)
        };
        record.rows.push(row("decode, resize and write the cache", self.samples(fresh)?, sources.len(), encoded));
        let mut mapped = load(&cached)?;
        let again = self.samples(|| load(&cached).map(|p| mapped = p))?;
        record.rows.push(row("name the files, map the cache, check it", again, sources.len(), encoded + squares));
        let mut rng = Rng::new(1, Stream::Test(0), 0);
        let mut batch = vec![0; self.batch * view.bytes()];
        // Enough batches that the clock does not matter.
        let batches = (1 << 28) / batch.len() + 1;
        let gather = || {
            for _ in 0..batches {
                let picked: Vec<usize> = (0..self.batch).map(|_| rng.below(mapped.len())).collect();
                mapped.gather(&picked, 0, &mut batch);
            }
            Ok(())
        };
        let time = self.samples(gather)?;
        let copied = batches * self.batch;
        record.rows.push(row("batches out of the mapping, one thread", time, copied, (copied * view.bytes()) as f64));
        let (pictures, side) = (sources.len(), self.side);
        Ok(LoaderTimes { record, pictures, side, cores, encoded_bytes: encoded, square_bytes: squares })
    }

    fn sources(&self) -> Result<Vec<Source<'static>>> {
        let Some(path) = self.pictures else {
            let memory = |p: &bundled::Photograph| Source::Memory { name: p.path.into(), bytes: p.jpeg };
            return Ok(bundled::photographs()?.iter().map(memory).collect());
        };
        let sources: Vec<_> = match path.is_dir() {
            true => trained::folder(path, self.events)?.into_iter().map(|f| Source::File(path.join(f))).collect(),
            false => Manifest::read(path, &[])?.sources(),
        };
        match sources.is_empty() {
            true => Err(Error::file(path, "has no pictures").fix("name a manifest or folder that has some")),
            false => Ok(sources),
        }
    }

    /// One that does not count, then as many as asked for.
    fn samples(&self, mut work: impl FnMut() -> Result<()>) -> Result<WallTime> {
        let mut sample = || {
            go_on(self.events)?;
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        };
        sample()?;
        Ok(WallTime::of((0..self.rounds).map(|_| sample()).collect::<Result<_>>()?))
    }
}

impl LoaderTimes {
    /// The table for people.
    pub fn text(&self) -> String {
        let header = ["", "pictures/s", "MB/s", "ms (fastest – slowest)", "n"].map(String::from);
        let cells = |r: &BenchRow| {
            let rates = [number(r.pictures_per_s, 0), number(r.mb_per_s, 1)];
            let time = [milliseconds(&r.time), r.time.n.to_string()];
            [vec![r.name.clone()], rates.to_vec(), time.to_vec()].concat()
        };
        format!(
            "{}\n{} pictures, {:.1} MB encoded, to squares of {} pixels ({:.1} MB); {} cores\n",
            text_table(&header, &self.record.rows.iter().map(cells).collect::<Vec<_>>()),
            self.pictures,
            self.encoded_bytes / 1e6,
            self.side,
            self.square_bytes / 1e6,
            self.cores
        )
    }
}

/// Of the encoded picture; 0 where it cannot be had, which loading says.
fn bytes(source: &Source) -> u64 {
    match source {
        Source::File(path) | Source::Boxed { path, .. } => std::fs::metadata(path).map_or(0, |m| m.len()),
        Source::Memory { bytes, .. } => bytes.len() as u64,
    }
}

fn row(name: &str, time: WallTime, pictures: usize, bytes: f64) -> BenchRow {
    let rate = |work: f64| Some(work / time.time_median_s);
    BenchRow {
        name: name.into(),
        time,
        pictures_per_s: rate(pictures as f64),
        mb_per_s: rate(bytes / 1e6),
        ..BenchRow::default()
    }
}
