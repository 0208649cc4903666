/*! Tiles that were measured on a device, on disk: one JSON file for each device in `tiles` of the cache folder. Tiles change
no bit, so a table can only be slow, never wrong; one that was measured with other kernels is not used, nor one that anybody
but this user and root can have written ([`Cache`]). */

use crate::atomic;
use crate::error::{Error, Result};
use crate::files;
use crate::hash::checksum;
use crate::launch::choices::Tiles;
use crate::nvrtc::{self, Cache};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was measured on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileTable {
    /// [`super::GpuSpec::model`].
    pub device: String,
    /// Names the sources of the kernels.
    kernels: String,
    /// By the text of a [`crate::launch::choices::Product`].
    pub products: BTreeMap<String, MeasuredTile>,
}

/// The fastest tile of a product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredTile {
    /// The kernel's constants and their values.
    pub tile: BTreeMap<String, i64>,
    /// Of its launches.
    pub median_us: f64,
    /// The same of the tile that the rule takes.
    pub rule_us: f64,
    /// Launches that were measured, of each.
    pub n: [usize; 2],
}

/// The name of the file about a device.
pub(super) fn file(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    device.chars().map(plain).collect::<String>() + ".json"
}

impl TileTable {
    /// An empty one of this program's kernels.
    pub fn new(device: String) -> Self {
        let text = nvrtc::sources().flat_map(|(name, text)| [name, text]).collect::<String>();
        Self { device, kernels: format!("{:016x}", checksum(text.as_bytes())), products: BTreeMap::new() }
    }

    /// The folder of all, if anything is kept at all.
    fn folder() -> Option<Cache> {
        Cache::open().beside("tiles")
    }

    /// A file's content, whatever device and kernels it is about.
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::file(path, format!("not a table of tiles: {e}"))
                .fix("delete it, and measure again with `deep-affect kernels tune`")
        })
    }

    /// That of a device; none if nothing was measured, or with other kernels only.
    pub fn of(device: &str) -> Result<Option<Self>> {
        let name = file(device);
        let found = Self::folder().and_then(|folder| Some((folder.folder()?.join(&name), folder.bytes(&name)?)));
        let Some((path, bytes)) = found else { return Ok(None) };
        Self::parse(&path, &bytes).map(|t| t.is_current().then_some(t))
    }

    /// A file about the kernels of this program.
    pub fn current(path: &Path) -> Result<Self> {
        let old =
            || Error::file(path, "was measured with other kernels").fix("measure again: `deep-affect kernels tune`");
        let bytes = files::read(path, files::PAGE).map_err(|e| Error::io(path, "read", e))?;
        Some(Self::parse(path, &bytes)?).filter(Self::is_current).ok_or_else(old)
    }

    fn is_current(&self) -> bool {
        self.kernels == Self::new(String::new()).kernels
    }

    /// Puts it where [`TileTable::of`] finds it.
    pub fn write(&self) -> Result<PathBuf> {
        let nowhere = || Error::job("there is no folder for what was measured").fix("set DEEP_AFFECT_CACHE to one");
        let cache = Self::folder().ok_or_else(nowhere)?;
        if let Some(why) = cache.distrusted() {
            return Err(Error::job(format!("what was measured would not be used: {why}")));
        }
        cache.make()?;
        let path = cache.folder().ok_or_else(nowhere)?.join(file(&self.device));
        let json = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        atomic::write_own(&path, |w| w.write_all(json.as_bytes()))?;
        Ok(path)
    }

    /// What lowering takes of it.
    pub fn tiles(self) -> Tiles {
        self.products.into_iter().map(|(product, m)| (product, m.tile)).collect()
    }
}
