//! Memory, open files and latency over time, as SVG: what is to be flat is to be seen flat. Behind them, when the disk
//! was full or failed.

use device_sim::load::canvas::{Anchor, COLOURS, Canvas, GREY, decade, decades, number, number_label};

use super::{
    report::{Flat, Report, Second, Times, clock, figures},
    schedule::Ill,
};

const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 228.0;
const TOP: f64 = 112.0;
/// Of one panel, and between two.
const PANEL: f64 = 150.0;
const GAP: f64 = 34.0;
const PANELS: f64 = 3.0;
const BOTTOM: f64 = 52.0;
const HEIGHT: f64 = TOP + PANELS * PANEL + (PANELS - 1.0) * GAP + BOTTOM;
/// Seconds that one point of a latency stands for: their median, and their worst.
const POINT: usize = 5;
/// Lines of a panel, about.
const LINES: f64 = 4.0;

/// One axis for all panels.
struct Time {
    lasts_s: f64,
}

/// A panel's place, and what its lowest and its highest line stand for.
struct Panel {
    top: f64,
    low: f64,
    high: f64,
}

/// One of the two latencies.
type Pick = fn(&Second) -> Option<Times>;

/// The picture.
pub fn svg(report: &Report) -> String {
    let time = Time { lasts_s: report.lasts_s.max(1.0) };
    let below = format!(
        "{} sign-ins, {:.0} a second; {} faults of the disk; {} mismatches; seed {}",
        report.load.approvals,
        report.load.rate,
        report.faults.len(),
        report.load.mismatches,
        report.seed
    );
    let mut canvas =
        Canvas::new((WIDTH, HEIGHT), LEFT, "The broker on a disk that fails and is well again", &below);
    legend(&mut canvas);
    for number in 0..3u8 {
        faults(&mut canvas, &time, report, top(number));
    }
    memory(&mut canvas, &time, report);
    open_files(&mut canvas, &time, report);
    latency(&mut canvas, &time, report);
    time.axis(&mut canvas);
    canvas.finish()
}

fn top(panel: u8) -> f64 {
    TOP + f64::from(panel) * (PANEL + GAP)
}

fn colour(ill: Ill) -> &'static str {
    match ill {
        Ill::Full => "#f0e442",
        Ill::Sync => "#cc79a7",
        Ill::Write => "#d55e00",
        Ill::Read => "#56b4e9",
        Ill::Store => "#009e73",
    }
}

/// Which band is which fault.
fn legend(canvas: &mut Canvas) {
    let mut x = LEFT;
    for ill in Ill::ALL {
        canvas.draw(&format!(
            "<rect x=\"{x}\" y=\"60\" width=\"14\" height=\"12\" fill=\"{}\" fill-opacity=\"0.4\"/>",
            colour(ill)
        ));
        canvas.label((x + 20.0, 71.0), Anchor::Start, ill.as_str());
        x += 122.0;
    }
}

fn faults(canvas: &mut Canvas, time: &Time, report: &Report, top: f64) {
    for fault in &report.faults {
        let (from, to) = (time.x(fault.from_s), time.x(fault.to_s.min(time.lasts_s)));
        canvas.draw(&format!(
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"{}\" fill-opacity=\"0.4\"/>",
            (to - from).max(1.0),
            colour(fault.ill)
        ));
    }
}

fn memory(canvas: &mut Canvas, time: &Time, report: &Report) {
    const MIB: f64 = 1024.0 * 1024.0;
    let of = |second: &Second| second.resident_bytes.map(|bytes| number(bytes) / MIB);
    let step = canvas_step(report.seconds.iter().filter_map(of));
    let panel = linear(canvas, top(0), "resident memory, MiB", step);
    curve(canvas, time, &panel, report, COLOURS[0], of);
    names(canvas, top(0), &report.flat, &[("memory", COLOURS[0])]);
}

fn open_files(canvas: &mut Canvas, time: &Time, report: &Report) {
    let files = |second: &Second| second.open_files.map(number);
    let threads = |second: &Second| second.threads.map(number);
    let all = report.seconds.iter().flat_map(|second| [files(second), threads(second)]).flatten();
    let panel = linear(canvas, top(1), "open files, and threads", canvas_step(all));
    curve(canvas, time, &panel, report, COLOURS[0], files);
    curve(canvas, time, &panel, report, COLOURS[2], threads);
    names(canvas, top(1), &report.flat, &[("open files", COLOURS[0]), ("threads", COLOURS[2])]);
}

fn latency(canvas: &mut Canvas, time: &Time, report: &Report) {
    let both = |second: &Second| [second.request_to_number_us, second.answer_to_outcome_us];
    let all: Vec<_> =
        report.seconds.iter().flat_map(both).flatten().flat_map(|times| [times.p50, times.p99]).collect();
    // Nobody sees a tenth of a millisecond.
    let (low, high) = decades(all.iter().map(|us| (*us).max(100)));
    let panel = Panel { top: top(2), low, high };
    head(canvas, panel.top, "latency: p50 as a line, p99 thin above it");
    let mut power = low;
    while power <= high + 1e-9 {
        line(canvas, &panel, power, &decade(power));
        power += 1.0;
    }
    let kinds: [(Pick, &str); 2] = [
        (|second| second.request_to_number_us, COLOURS[0]),
        (|second| second.answer_to_outcome_us, COLOURS[1]),
    ];
    for (times, colour) in kinds {
        let points = |pick: fn(&mut Vec<Times>) -> u64| -> Vec<_> {
            let points = report.seconds.chunks(POINT).filter_map(|seconds| {
                let mut all: Vec<_> = seconds.iter().filter_map(times).collect();
                let at_s = seconds.last()?.at_s;
                (!all.is_empty()).then(|| (time.x(at_s), panel.y(number(pick(&mut all).max(1)).log10())))
            });
            points.collect()
        };
        canvas.curve(colour, 0.8, points(|all| all.iter().map(|times| times.p99).max().unwrap_or(1)));
        canvas.curve(
            colour,
            2.0,
            points(|all| {
                all.sort_unstable_by_key(|times| times.p50);
                all[all.len() / 2].p50
            }),
        );
    }
    names(
        canvas,
        top(2),
        &report.flat,
        &[("request to number", COLOURS[0]), ("answer to outcome", COLOURS[1])],
    );
}

/// A round step between lines, so that there are some of them up to the largest.
fn canvas_step(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let most = values.fold(1.0, f64::max) * 1.05;
    let rough = most / LINES;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(power * 10.0);
    (step, (most / step).ceil() * step)
}

/// A panel from 0 on, with its lines.
fn linear(canvas: &mut Canvas, top: f64, what: &str, (step, high): (f64, f64)) -> Panel {
    let panel = Panel { top, low: 0.0, high };
    head(canvas, top, what);
    let mut value = 0.0;
    while value <= high + 1e-9 {
        line(canvas, &panel, value, &number_label(value));
        value += step;
    }
    panel
}

fn head(canvas: &mut Canvas, top: f64, what: &str) {
    canvas.label((LEFT, top - 8.0), Anchor::Start, what);
}

fn line(canvas: &mut Canvas, panel: &Panel, value: f64, label: &str) {
    let y = panel.y(value);
    canvas.grid((LEFT, y), (WIDTH - RIGHT, y));
    canvas.label((LEFT - 10.0, y + 4.5), Anchor::End, label);
}

/// What each second had, broken where another process begins.
fn curve(
    canvas: &mut Canvas,
    time: &Time,
    panel: &Panel,
    report: &Report,
    colour: &str,
    of: impl Fn(&Second) -> Option<f64>,
) {
    let lives = report.seconds.chunk_by(|one, other| one.life == other.life);
    for life in lives {
        let points = life.iter().filter_map(|second| Some((time.x(second.at_s), panel.y(of(second)?))));
        canvas.curve(colour, 1.8, points);
    }
}

/// What was judged, beside its panel.
fn names(canvas: &mut Canvas, top: f64, flat: &Flat, which: &[(&str, &str)]) {
    let mut y = top + 14.0;
    for (name, colour) in which {
        let judged = flat.all().into_iter().find(|(of, _)| of == name).and_then(|(_, judged)| judged);
        let text = judged.map_or_else(|| "not judged".to_owned(), |judged| figures(name, &judged));
        let (first, rest) = text.split_once(", ").unwrap_or((&text, ""));
        let (grows, at_most) = rest.split_once(" (").unwrap_or((rest, ""));
        canvas.name(
            (WIDTH - RIGHT + 14.0, y),
            colour,
            name,
            &[first, grows].join(if grows.is_empty() { "" } else { ", " }),
        );
        if let Some(at_most) = at_most.strip_suffix(')') {
            canvas.draw(&format!(
                "<text x=\"{}\" y=\"{:.1}\" fill=\"{GREY}\">{at_most}</text>",
                WIDTH - RIGHT + 14.0,
                y + 32.0
            ));
        }
        y += 66.0;
    }
}

impl Time {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.lasts_s).clamp(0.0, 1.0)
    }

    /// Below the last panel, with a thin line through all of them.
    fn axis(&self, canvas: &mut Canvas) {
        let steps = [5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];
        let step = steps.into_iter().find(|step| self.lasts_s / step <= 11.0).unwrap_or(7_200.0);
        let bottom = top(2) + PANEL;
        let mut at = 0.0;
        while at <= self.lasts_s + 1e-9 {
            canvas.label((self.x(at), bottom + 20.0), Anchor::Middle, &clock(at));
            at += step;
        }
        canvas.label(((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0), Anchor::Middle, "minutes");
    }
}

impl Panel {
    fn y(&self, value: f64) -> f64 {
        let part = (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE);
        self.top + PANEL * (1.0 - part.clamp(0.0, 1.0))
    }
}
