/*! Zeroed, page-aligned memory in huge pages where the system offers them: fresh 4 KiB pages cost memory-bound ops more
than their arithmetic. Pages nobody touches are never committed, so reserving for values that end up mapped is free. */

use crate::error::{Error, Result};
use crate::launch::Slot;
use memmap2::{MmapMut, MmapOptions};

pub struct Memory {
    map: Option<MmapMut>,
}

impl Memory {
    pub fn zeroed(bytes: usize) -> Result<Self> {
        let memory = Self::mapped(bytes, MmapOptions::new().len(bytes))?;
        // Advice only: a system without huge pages runs the same, slower.
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Some(map) = &memory.map {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(memory)
    }
    /// For few accesses here and there: in small pages, and more than the machine has where the system allows for that.
    pub fn sparse(bytes: usize) -> Result<Self> {
        Self::mapped(bytes, MmapOptions::new().len(bytes).no_reserve_swap())
    }
    fn mapped(bytes: usize, options: &MmapOptions) -> Result<Self> {
        if bytes == 0 {
            return Ok(Self { map: None });
        }
        let map = options.map_anon().map_err(|e| {
            Error::job(format!("cannot reserve {:.1} MiB of memory: {e}", bytes as f64 / (1 << 20) as f64))
                .fix("choose a smaller batch, image or network")
        })?;
        Ok(Self { map: Some(map) })
    }
    /// All of it.
    pub fn slot(&mut self) -> Slot {
        match &mut self.map {
            Some(map) => Slot::new(map.as_mut_ptr(), map.len()),
            None => Slot::new(std::ptr::NonNull::<u64>::dangling().as_ptr().cast(), 0),
        }
    }
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(&mut [])
    }
}
