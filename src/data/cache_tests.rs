//! Loading, caching, and every way a cache file can be wrong.

use super::*;
use crate::preprocess::Resize;
use image::{ImageFormat, RgbImage};
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn png(shade: u8) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    RgbImage::from_pixel(9, 6, image::Rgb([shade, 0, 255])).write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}
/// Of every picture.
const VIEW: View = View { side: 4, resize: Resize::SquashNearest, grey: false, crop: None };

fn options(cache: Option<&Path>) -> LoadOptions {
    LoadOptions { views: vec![VIEW], decode: DecodeOptions::default(), cache_dir: cache.map(Path::to_path_buf) }
}
/// Five files, of which the second is missing and the fourth is text.
fn folder() -> (tempfile::TempDir, Vec<Source<'static>>) {
    let dir = tempfile::tempdir().unwrap();
    for i in [0, 2, 4_u8] {
        std::fs::write(dir.path().join(format!("{i}.png")), png(i * 10)).unwrap();
    }
    std::fs::write(dir.path().join("3.png"), "text").unwrap();
    let sources = (0..5).map(|i| Source::File(dir.path().join(format!("{i}.png")))).collect();
    (dir, sources)
}
fn check(loaded: Loaded) {
    assert_eq!(loaded.bad.iter().map(|b| b.row).collect::<Vec<_>>(), [1, 3]);
    assert!(loaded.bad[0].path.ends_with("1.png") && loaded.bad[0].reason.starts_with("cannot read"));
    let pictures = loaded.accept(true).unwrap();
    assert_eq!((pictures.rows(), pictures.len(), pictures.bytes().len()), (&[0, 2, 4][..], 3, 3 * 48));
    for i in 0..3 {
        assert_eq!(pictures.image(i), [i as u8 * 20, 0, 255].repeat(16));
    }
    let mut batch = vec![0; 96];
    pictures.gather(&[2, 0], 0, &mut batch);
    assert_eq!((batch[0], batch[48]), (40, 0));
}

#[test]
fn bad_pictures_are_all_listed() {
    let (_dir, sources) = folder();
    check(Pictures::load(&sources, &options(None), &()).unwrap());
    let e = Pictures::load(&sources, &options(None), &()).unwrap().accept(false).unwrap_err().to_string();
    assert!(e.contains("2 of 5 pictures") && e.contains("1.png") && e.contains("skip-bad"), "{e}");
    let e = Pictures::load(&sources[1..2], &options(None), &()).unwrap().accept(true).unwrap_err().to_string();
    assert!(e.contains("none of 1 pictures"), "{e}");
    assert!(Pictures::load(&[], &options(None), &()).is_err());
    assert!(Pictures::load(&sources, &LoadOptions { views: vec![], ..options(None) }, &()).is_err());
    assert!(
        Pictures::load(&sources, &LoadOptions { views: vec![VIEW, View { side: 0, ..VIEW }], ..options(None) }, &())
            .is_err()
    );
}

#[test]
fn the_cache_follows_the_contents() {
    let (dir, sources) = folder();
    let cache = dir.path().join("cache");
    let opts = options(Some(&cache));
    let load = || Pictures::load(&sources, &opts, &()).unwrap();
    assert!(!load().cached);
    assert!(load().cached);
    check(load());
    // The names do not matter: renamed, it is the same set, and its bad ones are reported under their new names.
    let renamed: Vec<_> = [0, 2, 3, 4].map(|i| dir.path().join(format!("{i}.png"))).into();
    let renamed = |to: &Path| -> Vec<Source> {
        let copy = |from: &PathBuf| {
            let to = to.join(from.file_name().unwrap());
            std::fs::copy(from, &to).unwrap();
            Source::File(to)
        };
        renamed.iter().map(copy).collect()
    };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(!Pictures::load(&renamed(here.path()), &opts, &()).unwrap().cached);
    let moved = Pictures::load(&renamed(there.path()), &opts, &()).unwrap();
    assert!(moved.cached && moved.bad[0].path.starts_with(there.path().to_str().unwrap()));
    // A changed picture, option, rule or size is another set.
    std::fs::write(dir.path().join("2.png"), png(99)).unwrap();
    let changed = load();
    assert!(!changed.cached);
    assert_eq!(changed.accept(true).unwrap().image(1)[0], 99);
    for other in [
        LoadOptions { views: vec![View { side: 5, ..VIEW }], ..opts.clone() },
        LoadOptions { views: vec![View { resize: Resize::SquashBilinear, ..VIEW }], ..opts.clone() },
        LoadOptions { views: vec![View { grey: true, ..VIEW }], ..opts.clone() },
        LoadOptions { views: vec![VIEW, View { side: 5, ..VIEW }], ..opts.clone() },
        LoadOptions { decode: DecodeOptions { ignore_exif: true, ..Default::default() }, ..opts.clone() },
    ] {
        assert!(!Pictures::load(&sources, &other, &()).unwrap().cached);
    }
    // A missing picture that comes back is used.
    std::fs::write(dir.path().join("1.png"), png(7)).unwrap();
    assert_eq!(load().bad.len(), 1);
    assert!(load().cached);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let (dir, sources) = folder();
    let cache = dir.path().join("cache");
    let opts = options(Some(&cache));
    Pictures::load(&sources, &opts, &()).unwrap();
    let path = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    let mut wrong: Vec<Vec<u8>> = (0..whole.len()).step_by(23).map(|n| whole[..n].to_vec()).collect();
    for i in (0..whole.len()).step_by(5) {
        let mut flipped = whole.clone();
        flipped[i] ^= 1 << (i % 8);
        wrong.push(flipped);
    }
    wrong.push([&whole[..], b"more"].concat());
    for bytes in wrong {
        std::fs::write(&path, bytes).unwrap();
        let loaded = Pictures::load(&sources, &opts, &()).unwrap();
        assert!(!loaded.cached && loaded.rebuilt.as_ref().is_some_and(|r| r.contains("made again")));
        check(loaded);
        assert!(std::fs::read(&path).unwrap() == whole, "the same bytes every time");
    }
}

#[test]
fn memory_goes_through_the_same_decoders() {
    let (a, b) = (png(1), png(2));
    let cache = tempfile::tempdir().unwrap();
    for dir in [None, Some(cache.path())] {
        let loaded = Pictures::from_bytes(&[("a", &a), ("b", &b[..20]), ("c", &b)], &options(dir), &()).unwrap();
        assert_eq!((loaded.bad[0].path.as_str(), loaded.bad.len(), loaded.usable()), ("b", 1, 2));
        assert_eq!(loaded.accept(true).unwrap().image(1)[0], 2);
    }
}

#[test]
fn progress_is_told_and_can_stop() {
    #[derive(Default)]
    struct Watch(AtomicU64, AtomicU64, AtomicBool);
    impl Progress for Watch {
        fn start(&self, _: &str, _: u64) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        fn inc(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn done(&self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
        fn stopped(&self) -> bool {
            self.2.load(Ordering::Relaxed)
        }
    }
    let (dir, sources) = folder();
    let cache = dir.path().join("cache");
    let watch = Watch::default();
    Pictures::load(&sources, &options(Some(&cache)), &watch).unwrap();
    assert_eq!((watch.0.load(Ordering::Relaxed), watch.1.load(Ordering::Relaxed)), (10, 0));
    let watch = Watch(0.into(), 0.into(), true.into());
    for dir in [None, Some(cache.as_path())] {
        let e = Pictures::load(&sources, &options(dir), &watch).unwrap_err();
        assert_eq!((e.exit_code(), watch.1.load(Ordering::Relaxed)), (130, 0));
    }
}

#[test]
fn a_cache_folder_that_cannot_be_made_is_one_line() {
    let (dir, sources) = folder();
    let e = Pictures::load(&sources, &options(Some(&dir.path().join("0.png/cache"))), &()).unwrap_err().to_string();
    assert!(e.contains("cache folder") && !e.contains('\n'), "{e}");
}

#[test]
fn every_view_is_of_the_same_picture() {
    let files: Vec<Vec<u8>> = (0..3)
        .map(|i| {
            let mut out = Cursor::new(vec![]);
            let pixel = |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, i * 60]);
            RgbImage::from_fn(9, 6, pixel).write_to(&mut out, ImageFormat::Png).unwrap();
            out.into_inner()
        })
        .collect();
    let items: Vec<(&str, &[u8])> = files.iter().map(|f| ("a", f.as_slice())).collect();
    let cache = tempfile::tempdir().unwrap();
    let load = |views: &[View], cache: Option<&Path>| {
        let loaded =
            Pictures::from_bytes(&items, &LoadOptions { views: views.to_vec(), ..options(cache) }, &()).unwrap();
        (loaded.cached, loaded.accept(false).unwrap())
    };
    let views =
        [VIEW, View { side: 7, resize: Resize::CropBilinear, grey: false, crop: None }, View { grey: true, ..VIEW }];
    let alone = views.map(|v| load(&[v], None).1);
    for (cache, known) in [(None, false), (Some(cache.path()), false), (Some(cache.path()), true)] {
        let (cached, all) = load(&views, cache);
        assert_eq!((cached, all.views(), all.bytes().len()), (known, &views[..], 3 * (48 + 147 + 48)));
        for (view, alone) in alone.iter().enumerate() {
            assert_eq!(all.squares(view), alone.bytes());
            let mut batch = vec![0; 2 * views[view].bytes()];
            all.gather(&[2, 1], view, &mut batch);
            assert_eq!(batch, [alone.image(2), alone.image(1)].concat());
        }
        assert_eq!(all.image(1), [alone[0].image(1), alone[1].image(1), alone[2].image(1)].concat());
    }
}
