/*! The picture of a plan: time to the right, the arena's addresses upwards, one rectangle for each value that lives
there. A page of its own, light or dark as the reader's system is. */

use super::svg::{Axis, Plot, escape, short};
use crate::graph::{Graph, Role};
use crate::plan::{Life, Pass, Plan, parts};
use std::fmt::Write;

/// What is drawn besides the plan.
pub struct Picture<'a> {
    pub title: &'a str,
    pub subtitle: &'a str,
    pub graph: &'a Graph,
    pub plan: &'a Plan,
    /// Bytes of scratch memory in each step; empty where there is none.
    pub scratch: &'a [usize],
}

/// What a value is, for its colour: class, name.
const KINDS: [(&str, &str); 4] = [
    ("act", "activations"),
    ("mask", "dropout masks"),
    ("grad", "gradients of activations"),
    ("wgrad", "gradients of weights"),
];

/// The kind of a value: an index into [`KINDS`].
fn kind(g: &Graph, l: &Life) -> usize {
    match Pass::of(g, l.node) {
        _ if g.nodes()[l.node].op.describe().role == Role::DropoutMask => 1,
        Pass::Fprop | Pass::Update => 0,
        Pass::Dgrad => 2,
        Pass::Wgrad => 3,
    }
}

/// Colours chosen apart in hue and in lightness, so that they can be told apart without hue.
const STYLE: &str = r#"<style>
svg { --bg: #fff; --ink: #1a1e24; --soft: #5b6572; --grid: #e9ecf0; --band: #f4f6f8; --act: #3b82c4; --mask: #7a5bb5; --grad: #eba13a; --wgrad: #c0453f; --scratch: #aab3bd; }
@media (prefers-color-scheme: dark) { svg { --bg: #13161a; --ink: #e8ebef; --soft: #a0aab6; --grid: #272d35; --band: #191e24; --act: #4f97da; --mask: #a184dd; --grad: #e9ab55; --wgrad: #d9625a; --scratch: #66707b; } }
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--soft); }
text.title { font-size: 19px; font-weight: 600; fill: var(--ink); } text.name { font-size: 13.5px; fill: var(--ink); }
text.mid, text.in { text-anchor: middle; } text.end { text-anchor: end; } text.in { font-size: 11.5px; fill: #fff; pointer-events: none; }
text.dark { fill: #1a1e24; } text.part { text-anchor: middle; font-size: 11.5px; }
path.grid { stroke: var(--grid); } path.axis { stroke: var(--soft); fill: none; }
path.live { stroke: var(--ink); stroke-width: 1.25; fill: none; opacity: .8; pointer-events: none; }
path.limit { stroke: var(--ink); stroke-width: 1.25; stroke-dasharray: 5 4; fill: none; opacity: .8; }
rect.page { fill: var(--bg); } rect.band { fill: var(--band); }
rect.act { fill: var(--act); } rect.mask { fill: var(--mask); } rect.grad { fill: var(--grad); } rect.wgrad { fill: var(--wgrad); } rect.scratch { fill: var(--scratch); }
rect.act, rect.mask, rect.grad, rect.wgrad, rect.scratch { stroke: var(--bg); stroke-width: .4; }
rect.act:hover, rect.mask:hover, rect.grad:hover, rect.wgrad:hover, rect.scratch:hover { stroke: var(--ink); stroke-width: 1.5; }
</style>"#;

const WIDTH: f64 = 1320.0;
const HEAD: f64 = 84.0;
const PLOT: f64 = 640.0;

/// Steps that belong to one part of the network: first, behind the last, name.
fn bands(g: &Graph, plan: &Plan) -> Vec<(usize, usize, String)> {
    let nodes: Vec<usize> = plan.steps().iter().map(|s| s[0]).collect();
    let mut all: Vec<(usize, usize, String)> = vec![];
    for (t, name) in parts(g, &nodes, 24).into_iter().enumerate() {
        match all.last_mut() {
            Some(last) if last.2 == name => last.1 = t + 1,
            _ => all.push((t, t + 1, name)),
        }
    }
    all
}

/// The page.
pub fn picture(p: &Picture) -> String {
    let (g, plan) = (p.graph, p.plan);
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let (lives, live) = (plan.lives(g), plan.live_bytes(g));
    let most = live.iter().copied().max().unwrap_or(0);
    let steps = plan.steps().len();
    let top = mib(plan.arena_bytes() + p.scratch.iter().copied().max().unwrap_or(0));
    let x = Axis::whole("step", 0.0, steps as f64, 14);
    let mut plot = Plot::new(WIDTH, PLOT, x, Axis::from_zero("address in the arena, MiB", top.max(1e-3), 7));
    for (i, (from, to, name)) in bands(g, plan).into_iter().enumerate() {
        let (from, to, hi) = (from as f64, to as f64, plot.top_value());
        if i % 2 == 0 {
            plot.rect("band", (from, 0.0), (to, hi), "");
        }
        plot.heading("part", from, to, &name);
    }
    let node = |i: usize| {
        let n = &g.nodes()[i];
        format!("{}: {}", if n.label.is_empty() { "network" } else { &n.label }, n.op.name())
    };
    for l in &lives {
        let (class, what) = KINDS[kind(g, l)];
        let (from, to) = ((l.first as f64, mib(l.at)), (l.last as f64 + 1.0, mib(l.at + l.bytes)));
        let tip = format!(
            "{} {:?}, {what}\n{} MiB at {} MiB, steps {} to {}",
            node(l.node),
            g.dims(l.value),
            short(mib(l.bytes), 2),
            short(mib(l.at), 2),
            l.first,
            l.last
        );
        plot.rect(class, from, to, &tip);
        plot.label(if class == "grad" { "in dark" } else { "in" }, from, to, &g.nodes()[l.node].label);
    }
    for (t, &bytes) in p.scratch.iter().enumerate().filter(|(_, b)| **b > 0) {
        let tip = format!("{}\n{} MiB of scratch in step {t}", node(plan.steps()[t][0]), short(mib(bytes), 2));
        let at = mib(plan.arena_bytes());
        plot.rect("scratch", (t as f64, at), (t as f64 + 1.0, at + mib(bytes)), &tip);
    }
    let stairs: Vec<(f64, f64)> =
        live.iter().enumerate().flat_map(|(t, &b)| [(t as f64, mib(b)), (t as f64 + 1.0, mib(b))]).collect();
    plot.line("live", &stairs);
    plot.horizontal("limit", mib(plan.arena_bytes()));

    let used: Vec<usize> = lives.iter().map(|l| kind(g, l)).collect();
    let mut legend: Vec<(&str, &str)> =
        KINDS.iter().enumerate().filter(|(i, _)| used.contains(i)).map(|(_, k)| *k).collect();
    if p.scratch.iter().any(|b| *b > 0) {
        legend.push(("scratch", "scratch of one launch"));
    }
    let mut head = String::new();
    let mut at = 47.0;
    let mut entry = |mark: String, text: &str| {
        let _ = write!(head, r#"<g transform="translate({at:.0} 66)">{mark}<text x="20" y="4">{text}</text></g>"#);
        at += 46.0 + 6.6 * text.chars().count() as f64;
    };
    for (class, name) in legend {
        entry(format!(r#"<rect class="{class}" y="-6" width="13" height="13"/>"#), name);
    }
    entry(
        r#"<path class="live" d="M-2 0H15"/>"#.into(),
        &format!("sum of live values, at most {} MiB", short(mib(most), 1)),
    );
    entry(r#"<path class="limit" d="M-2 0H15"/>"#.into(), &format!("arena, {} MiB", short(mib(plan.arena_bytes()), 1)));
    let described = format!("{}. {}. {} values over {steps} steps.", p.title, p.subtitle, lives.len());
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {h}" width="{WIDTH}" height="{h}" role="img" aria-label="{}">{STYLE}<rect class="page" width="100%" height="100%"/><text class="title" x="45" y="28">{}</text><text x="45" y="48">{}</text>{head}<g transform="translate(0 {HEAD})">{}</g></svg>
"#,
        escape(&described),
        escape(p.title),
        escape(p.subtitle),
        plot.body(),
        h = HEAD + PLOT,
    )
}
