//! Latency by percentile, as SVG. The tail is what people complain about, so it has as much room as the rest: each
//! step to the right is a tenth of the sign-ins that are left.

use super::{
    canvas::{Anchor, COLOURS, Canvas, decade, decades, number},
    report::{Report, milliseconds},
};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 208.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 56.0;
/// Points of a curve.
const STEPS: u32 = 240;

/// The picture.
pub fn svg(report: &Report) -> String {
    let curves = report.latency_us.all();
    let nines = nines_of(curves.iter().map(|(_, times)| times.count).max().unwrap_or(0));
    let measured = curves.iter().filter(|(_, times)| times.count > 0);
    let (low, high) = decades(measured.flat_map(|(_, times)| [times.min, times.max]));
    let x = |left: f64| LEFT + (WIDTH - LEFT - RIGHT) * left / nines;
    let y = |us: f64| {
        let part = (us.max(1.0).log10() - low) / (high - low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    };

    let below = format!(
        "{} sign-ins, {:.0} a second, {} mismatches",
        report.approvals, report.rate, report.mismatches
    );
    let mut canvas = Canvas::new((WIDTH, HEIGHT), LEFT, "Latency by percentile", &below);
    // The grid: decades of time, nines of sign-ins.
    let mut power = low;
    while power <= high + 1e-9 {
        let at = y(10f64.powf(power));
        canvas.grid((LEFT, at), (WIDTH - RIGHT, at));
        canvas.label((LEFT - 10.0, at + 4.5), Anchor::End, &decade(power));
        power += 1.0;
    }
    for (part, label) in
        [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")]
    {
        let left = -f64::log10(1.0 - part);
        if left > nines + 1e-9 {
            continue;
        }
        let at = x(left);
        canvas.grid((at, TOP), (at, HEIGHT - BOTTOM));
        canvas.label((at, HEIGHT - BOTTOM + 20.0), Anchor::Middle, label);
    }
    canvas.label(((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14.0), Anchor::Middle, "percent of sign-ins");
    let mut names = Vec::new();
    for ((name, times), colour) in curves.iter().zip(COLOURS) {
        if times.count == 0 {
            continue;
        }
        let points = (0..=STEPS).map(|step| {
            let left = nines_of(times.count).min(nines) * f64::from(step) / f64::from(STEPS);
            (x(left), y(number(times.at(1.0 - 10f64.powf(-left)))))
        });
        canvas.curve(colour, 2.2, points);
        let figures = format!("p50 {}, p99 {}", milliseconds(times.p50), milliseconds(times.p99));
        names.push((y(number(times.max)), colour, name, figures));
    }
    // Names stand at the ends of their curves, and make room for each other.
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = TOP;
    for (wanted, colour, name, figures) in names {
        let at = wanted.max(free);
        free = at + 44.0;
        canvas.name((WIDTH - RIGHT + 12.0, at), colour, name, &figures);
    }
    canvas.finish()
}

/// How many nines so many measurements can tell of: one in ten is one.
fn nines_of(count: u64) -> f64 {
    number(count.max(10)).log10()
}
