/*! Pictures a second and core that are described without a network (`features --kind`), by kind, at 320 x 256: decoding apart.

`cargo bench --bench descriptors -- [PHOTOGRAPH.jpg] [--rounds N]`; without a photograph a picture of smooth colours and noise.
Seconds are of CPU time where the system tells it, which a busy machine disturbs least; the best and the median of the rounds. */

mod common;

use deep_affect::data::{DecodeOptions, Picture, decode, resize};
use deep_affect::descriptors::{Descriptors, Kind, gist, lbp};

const SIZE: [u32; 2] = [320, 256];

/// By the clock where the system does not tell CPU time.
fn seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    common::cpu_seconds().unwrap_or_else(|| START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64())
}

/// Waves of every colour, and noise of a few levels.
fn drawn() -> Picture {
    let [w, h] = SIZE;
    let mut noise = 1u32;
    let mut level = |x: u32, y: u32, c: u32| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave = (x as f32 / (17.0 + c as f32)).sin() + (y as f32 / (23.0 - c as f32)).cos();
        (120.0 + 55.0 * wave) as u8 + (noise >> 29) as u8
    };
    let rgb =
        (0..h).flat_map(|y| (0..w).flat_map(move |x| [0, 1, 2].map(|c| (x, y, c)))).map(|(x, y, c)| level(x, y, c));
    Picture { w, h, rgb: rgb.collect(), notes: vec![] }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let rounds = args.iter().position(|a| a == "--rounds").and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(20);
    let photograph = args.first().filter(|a| !a.starts_with("--"));
    let bytes = photograph.map(|f| std::fs::read(f).expect("a photograph"));
    let decoded = |bytes: &Vec<u8>| decode::decode(bytes, &DecodeOptions::default()).expect("a photograph");
    let picture = bytes.as_ref().map_or_else(drawn, decoded);
    println!("{} x {} pixels, {rounds} rounds", picture.w, picture.h);
    let time = |what: &str, f: &mut dyn FnMut()| {
        f();
        let mut all: Vec<f64> = (0..rounds)
            .map(|_| {
                let start = seconds();
                f();
                seconds() - start
            })
            .collect();
        all.sort_by(f64::total_cmp);
        let [best, median] = [all[0], all[rounds / 2]];
        println!("{what:<16} {:8.2} ms  {:8.0} a second (median {:.2} ms)", best * 1e3, 1.0 / best, median * 1e3);
    };
    if let Some(bytes) = &bytes {
        time("decode", &mut || drop(std::hint::black_box(decoded(bytes))));
    }
    for kinds in [
        &[Kind::Colour][..],
        &[Kind::Lbp],
        &[Kind::Colour, Kind::Lbp],
        &[Kind::Gist],
        &[Kind::Colour, Kind::Lbp, Kind::Gist],
    ] {
        let described =
            Descriptors::new(kinds, Default::default(), None, gist::SIDE, lbp::Form::Circle).expect("kinds");
        let names: Vec<String> = kinds.iter().map(|k| format!("{k:?}").to_lowercase()).collect();
        time(&names.join("+"), &mut || drop(std::hint::black_box(described.of(&picture).expect("numbers"))));
    }
    let grey = resize::grey(&picture.rgb);
    time("  luma, squash", &mut || {
        drop(std::hint::black_box(
            resize::squash_grey(&grey, picture.w, picture.h, gist::SIDE as u32).expect("a square"),
        ));
    });
}
