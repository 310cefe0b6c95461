//! Latency by percentile, as SVG. The tail is what people complain about, so it has as much room as the rest: each
//! step to the right is a tenth of the sign-ins that are left.

use std::fmt::Write as _;

use super::report::{Percentiles, Report, milliseconds};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 208.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 56.0;
/// Points of a curve.
const STEPS: u32 = 240;
/// Colours that differ for everybody (Okabe and Ito, 2008).
pub(crate) const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// The picture.
pub fn svg(report: &Report) -> String {
    let curves = report.latency_us.all();
    let nines = nines_of(curves.iter().map(|(_, times)| times.count).max().unwrap_or(0));
    let (low, high) = bounds(&curves.map(|(_, times)| times));
    let x = |left: f64| LEFT + (WIDTH - LEFT - RIGHT) * left / nines;
    let y = |us: f64| {
        let part = (us.max(1.0).log10() - low) / (high - low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    };

    let mut svg = String::new();
    let mut out = |text: String| {
        let _ = writeln!(svg, "{text}");
    };
    out(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\">\n<title>Latency by percentile</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"
    ));
    out(format!(
        "<text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1a1a1a\">Latency by percentile</text>\n\
         <text x=\"{LEFT}\" y=\"46\" fill=\"#666\">{} sign-ins, {:.0} a second, {} mismatches</text>",
        report.approvals, report.rate, report.mismatches
    ));
    // The grid: decades of time, nines of sign-ins.
    let mut decade = low;
    while decade <= high + 1e-9 {
        let at = y(10f64.powf(decade));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most ten minutes")]
        let label = label(10f64.powf(decade).round() as u64);
        out(format!(
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 10.0,
            at + 4.5
        ));
        decade += 1.0;
    }
    for (part, label) in
        [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")]
    {
        let left = -f64::log10(1.0 - part);
        if left > nines + 1e-9 {
            continue;
        }
        let at = x(left);
        out(format!(
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#e4e4e4\"/>\n\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 20.0
        ));
    }
    out(format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">percent of sign-ins</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0
    ));
    let mut labels: Vec<(f64, String)> = Vec::new();
    for ((name, times), colour) in curves.iter().zip(COLOURS) {
        if times.count == 0 {
            continue;
        }
        let points: Vec<String> = (0..=STEPS)
            .map(|step| {
                let left = nines_of(times.count).min(nines) * f64::from(step) / f64::from(STEPS);
                format!("{:.1},{:.1}", x(left), y(number(times.at(1.0 - 10f64.powf(-left)))))
            })
            .collect();
        out(format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" stroke-linejoin=\"round\" points=\"{}\"/>",
            points.join(" ")
        ));
        labels.push((
            y(number(times.max)),
            format!(
                "<tspan fill=\"{colour}\" font-weight=\"600\">{name}</tspan>\
                 <tspan x=\"{}\" dy=\"16\" fill=\"#666\">p50 {}, p99 {}</tspan>",
                WIDTH - RIGHT + 12.0,
                milliseconds(times.p50),
                milliseconds(times.p99)
            ),
        ));
    }
    // Names stand at the ends of their curves, and make room for each other.
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = TOP;
    for (wanted, text) in labels {
        let at = wanted.max(free);
        free = at + 44.0;
        out(format!("<text x=\"{}\" y=\"{at:.1}\">{text}</text>", WIDTH - RIGHT + 12.0));
    }
    svg.push_str("</svg>\n");
    svg
}

/// How many nines so many measurements can tell of: one in ten is one.
fn nines_of(count: u64) -> f64 {
    number(count.max(10)).log10()
}

/// Whole decades round all that was measured.
fn bounds(all: &[&Percentiles]) -> (f64, f64) {
    let measured = || all.iter().filter(|times| times.count > 0);
    let low = measured().map(|times| times.min).min().unwrap_or(1_000);
    let high = measured().map(|times| times.max).max().unwrap_or(1_000_000);
    let low = number(low.max(1)).log10().floor();
    (low, number(high.max(1)).log10().ceil().max(low + 1.0))
}

fn label(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// A number without the digits that say nothing.
pub(crate) fn number_label(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}

#[allow(clippy::cast_precision_loss, reason = "a pixel is coarser")]
fn number(value: u64) -> f64 {
    value as f64
}
