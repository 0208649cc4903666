//! The page on realistic, small, empty and hostile reports. Set `REPORT_OUT` to a folder to look at them.

use super::*;
use crate::rng::{Rng, Stream};

/// A picture of two colours, as a PNG file.
fn thumbnail(i: usize) -> Vec<u8> {
    let hue = |k: usize| (128.0 + 110.0 * ((i * 7 + k * 5) as f64).sin()) as u8;
    let (w, h) = if i.is_multiple_of(3) { (120, 160) } else { (160, 110) };
    let picture = image::RgbImage::from_fn(w, h, |x, y| {
        let sky = y < h / 2 + (10.0 * (x as f64 / 25.0 + i as f64).sin()) as u32;
        image::Rgb(if sky { [hue(0), hue(1), 220] } else { [hue(2), 120, hue(3)] })
    });
    let mut out = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

/// A plausible run: predictions that shrink to the mean, with noise.
fn example(targets: &[&str], n: usize, epochs: u32, val: bool) -> Report {
    let mut rng = Rng::new(3, Stream::Test(30), n as u32);
    let mut normal = || (0..12).map(|_| rng.uniform()).sum::<f32>() - 6.0;
    let means = [5.2_f32, 4.6, 5.0];
    let mut points = Vec::new();
    for i in 0..n {
        let truth: Vec<f32> = (0..targets.len()).map(|k| (means[k] + 1.6 * normal()).clamp(1.2, 8.8)).collect();
        let pred = (0..targets.len()).map(|k| means[k] + 0.75 * (truth[k] - means[k]) + 0.8 * normal()).collect();
        let id = format!("{}_{i:03}.jpg", ["harbour", "dog", "storm", "wedding-party-at-the-lake"][i % 4]);
        points.push(Point { path: format!("pictures/{id}"), id, truth, pred, thumbnail: None });
    }
    let (best, worst) = extremes(&points);
    best.into_iter().chain(worst).for_each(|i| points[i].thumbnail = (i % 11 != 5).then(|| thumbnail(i)));
    let flat = |f: &dyn Fn(&Point) -> &Vec<f32>| points.iter().flat_map(|p| f(p).clone()).collect::<Vec<_>>();
    let train_mean: Vec<f64> = means[..targets.len()].iter().map(|m| f64::from(*m) + 0.05).collect();
    let metrics = Metrics::of(targets, &flat(&|p| &p.truth), &flat(&|p| &p.pred), &train_mean).unwrap();
    let history = (1..=epochs)
        .map(|e| {
            let (t, wobble) = (f64::from(e), f64::from(normal()) * 0.04);
            let lr = [4e-4, 4e-5, 6e-6][(e > 24) as usize + (e > 36) as usize];
            let low = if e > 24 { 0.55 } else { 0.7 };
            let val_loss =
                val.then_some(1.15 + 2.4 * (-t / 5.0).exp() + wobble - (e > 24) as u8 as f64 * 0.12 + t * 0.002);
            let train_loss = low + 3.0 * (-t / 6.0).exp() + wobble / 2.0;
            Epoch { epoch: e, train_loss, val_loss, lr, outputs: vec![] }
        })
        .collect();
    Report {
        title: "deep-affect on the toy set".into(),
        subtitle:
            "Shared trunk, 5 expressions, fold 1 of 5 · NVIDIA H100 · deep-affect train toy.csv --folds 5 --seed 7"
                .into(),
        facts: [
            ("Command", "deep-affect train toy.csv --folds 5 --seed 7 --device cuda"),
            ("Device", "NVIDIA H100 80GB HBM3, driver 550.54"),
            ("Parameters", "355,812,874"),
            ("Training pictures", "480 in 5 groups"),
            ("Weights", "fnv1a 9c1f03aa52d1e0b7 · runs/toy/best.safetensors"),
            ("Time", "2 min 14 s, 41 pictures/s"),
        ]
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .to_vec(),
        history,
        targets: targets.iter().map(|t| t.to_string()).collect(),
        placed: placed(&points).into_iter().map(|i| (i, thumbnail(i))).collect(),
        points,
        metrics,
        over_folds: None,
        train_mean: vec![],
        weight: vec![],
        notes: vec![
            "Trained on generated toy pictures: these numbers say that the engine works, nothing about people.".into(),
            "Weights start from random numbers; no licensed data is inside.".into(),
        ],
    }
}

fn save(name: &str, page: &str) {
    if let Some(folder) = std::env::var_os("REPORT_OUT") {
        std::fs::write(std::path::Path::new(&folder).join(name), page).unwrap();
    }
}

#[test]
fn a_realistic_page() {
    let r = example(&["valence", "arousal"], 120, 48, true);
    let page = html(&r).unwrap();
    save("r.html", &page);
    assert_eq!(page, html(&r).unwrap());
    for part in ["h-result", "h-loss", "h-pictured", "h-plane", "h-scatter", "h-pictures", "h-metrics", "h-card"] {
        assert_eq!(page.matches(&format!("id=\"{part}\"")).count(), 1, "{part}");
    }
    assert_eq!(page.matches("class=\"miss\"").count(), 120);
    assert!(page.matches("<img src=\"data:image/png;base64,iVBOR").count() >= 10);
    // Nothing to load: the only address is SVG's own name.
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count() + 1); // http-equiv
    assert!(!page.contains("NaN") && !page.contains("inf,") && !page.contains("<script"));
}

#[test]
fn many_points_one_target_no_validation() {
    let page = html(&example(&["valence", "intensity"], 5000, 3, true)).unwrap();
    save("many.html", &page);
    assert_eq!(page.matches("class=\"miss\"").count(), 300);
    assert!(page.contains("300 of 5000"));
    let page = html(&example(&["arousal"], 40, 12, false)).unwrap();
    save("one.html", &page);
    assert!(!page.contains("h-plane") && !page.contains("validation loss") && page.contains("h-scatter"));
}

#[test]
fn little_to_show() {
    let mut r = example(&["valence", "arousal"], 1, 1, true);
    save("little.html", &html(&r).unwrap());
    r.history[0].train_loss = f64::NAN;
    r.history[0].val_loss = None;
    r.facts.clear();
    r.notes.clear();
    assert!(!html(&r).unwrap().contains("h-loss"));
    r.history.clear();
    r.points.clear();
    r.placed.clear();
    let page = html(&r).unwrap();
    assert!(!page.contains("h-plane") && !page.contains("h-pictures") && !page.contains("h-card"));
}

/// What differs by rounding alone has no line, as it has no slope in the table.
#[test]
fn a_collapsed_network_has_no_slope() {
    let mut r = example(&["valence"], 30, 0, false);
    for (i, p) in r.points.iter_mut().enumerate() {
        p.pred[0] = 5.25 + (i % 2) as f32 * 4.0 * f32::EPSILON;
    }
    let page = html(&r).unwrap();
    assert!(page.contains("Predictions are as good as equal: no line fits.") && !page.contains("Slope "), "{page}");
}

#[test]
fn hostile_text_stays_text() {
    let evil = "\"><script>alert('x')</script>&<b>\u{1b}[31m";
    let mut r = example(&["valence", evil], 20, 4, true);
    (r.title, r.subtitle) = (evil.into(), evil.into());
    r.notes.push(evil.into());
    r.facts.push((evil.into(), evil.into()));
    r.points.iter_mut().for_each(|p| (p.id, p.path) = (evil.into(), evil.into()));
    let page = html(&r).unwrap();
    save("evil.html", &page);
    assert!(!page.contains("<script") && !page.contains("<b>\u{1b}") && !page.contains("alert('"));
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let good = example(&["valence"], 5, 2, false);
    let with = |change: &dyn Fn(&mut Report)| {
        let mut r = good.clone();
        change(&mut r);
        html(&r)
    };
    assert!(with(&|_| ()).is_ok());
    assert!(with(&|r| r.targets.clear()).is_err());
    assert!(with(&|r| r.targets[0] = "arousal".into()).is_err());
    assert!(with(&|r| r.points[0].truth.push(1.0)).is_err());
    assert!(with(&|r| r.points[0].pred[0] = f32::NAN).is_err());
    assert!(with(&|r| r.points[0].thumbnail = Some(b"GIF89a".to_vec())).is_err());
}

#[test]
fn base64_of_the_standard() {
    let vectors =
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
    vectors.iter().for_each(|(plain, coded)| assert_eq!(base64(plain.as_bytes()), *coded));
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
}

#[test]
fn pictures_on_the_plane_do_not_overlap() {
    let r = example(&["valence", "arousal"], 400, 0, false);
    let placed: Vec<&Point> = placed(&r.points).into_iter().map(|i| &r.points[i]).collect();
    let room = charts::room(&r.points);
    let close = |a: &Point, b: &Point| (0..2).all(|t| (a.truth[t] - b.truth[t]).abs() <= room[t]);
    assert!((30..150).contains(&placed.len()), "{}", placed.len());
    for (i, a) in placed.iter().enumerate() {
        assert!(placed[..i].iter().all(|b| !close(a, b)));
    }
    // Whoever is left out lies under one of them.
    assert!(r.points.iter().all(|p| placed.iter().any(|a| close(a, p))));
    let page = html(&r).unwrap();
    assert_eq!(page.matches("<image ").count(), placed.len());
}

#[test]
fn extremes_do_not_overlap() {
    let r = example(&["valence"], 5, 0, false);
    let (best, worst) = extremes(&r.points);
    assert_eq!((best.len(), worst.len()), (3, 2));
    assert!(best.iter().all(|i| !worst.contains(i)));
    assert!(r.points[best[0]].error() <= r.points[worst[0]].error());
}
