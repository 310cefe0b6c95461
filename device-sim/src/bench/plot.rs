//! The broker beside its ceilings, as SVG: what an approval is made of and what it costs, and each ratio beside what it
//! should reach.

use std::fmt::Write as _;

use super::ceiling::{Ceiling, Part};
use crate::load::canvas::{COLOURS, number_label};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 176.0;
const RIGHT: f64 = 96.0;
/// Of a bar, and from one to the next.
const BAR: f64 = 22.0;
const STEP: f64 = 34.0;
/// Parts of a bar, from dark to light.
const SHADES: [&str; 5] = ["#08519c", "#3182bd", "#6baed6", "#9ecae1", "#c6dbef"];
const TEXT: &str = "#1a1a1a";
const FAINT: &str = "#666";

/// A ratio, and what it should be.
struct Goal {
    name: &'static str,
    ratio: f64,
    reach: f64,
    /// More is better.
    at_least: bool,
}

impl Goal {
    fn reached(&self) -> bool {
        if self.at_least { self.ratio >= self.reach } else { self.ratio <= self.reach }
    }
}

/// The picture.
pub fn svg(ceiling: &Ceiling) -> String {
    let ratios = &ceiling.ratios;
    let goal = |name, ratio, reach, at_least| Goal { name, ratio, reach, at_least };
    let goals = [
        goal("CPU of an approval", ratios.cpu_per_approval, 2.0, false),
        goal("appends, 64 waiting", ratios.append_64, 0.8, true),
        goal("appends, 1,024 waiting", ratios.append_1024, 0.5, true),
        goal("outcome p50, flushes", ratios.outcome_p50_flushes, 2.5, false),
        goal("outcome p99, flushes", ratios.outcome_p99_flushes, 10.0, false),
    ];
    let mut drawing = Drawing { svg: String::new(), at: 64.0 };
    drawing.costs(ceiling);
    drawing.goals(&goals);
    let height = drawing.at + 12.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>The broker beside its ceilings</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"30\" font-size=\"17\" font-weight=\"600\" fill=\"{TEXT}\">The broker beside its ceilings</text>\n\
         {}</svg>\n",
        drawing.svg
    )
}

struct Drawing {
    svg: String,
    /// Where the next line begins.
    at: f64,
}

impl Drawing {
    fn out(&mut self, text: &str) {
        let _ = writeln!(self.svg, "{text}");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
        self.out(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
        ));
    }

    fn heading(&mut self, heading: &str, explained: &str) {
        self.out(&format!(
            "<text x=\"24\" y=\"{:.1}\" fill=\"{TEXT}\"><tspan font-weight=\"600\">{heading}</tspan>\
             <tspan dx=\"10\" fill=\"{FAINT}\">{explained}</tspan></text>",
            self.at
        ));
        self.at += 16.0;
    }

    fn bar(&mut self, from: f64, width: f64, colour: &str) {
        self.out(&format!(
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
            self.at,
            width.max(1.0)
        ));
    }

    /// A line's name, left of its bar.
    fn name(&mut self, name: &str) {
        self.text(LEFT - 12.0, self.at + BAR / 2.0 + 4.5, "end", TEXT, name);
    }

    /// What an approval is made of, end to end, above what the broker spends on one.
    fn costs(&mut self, ceiling: &Ceiling) {
        let parts = ceiling.parts();
        let (bare, whole) = (parts.iter().map(Part::us).sum::<f64>(), ceiling.whole_us());
        let scale = (WIDTH - LEFT - RIGHT) / bare.max(whole);
        self.heading("CPU time of an approval", "the broker's process alone, in microseconds");
        self.name("its bare parts");
        let mut from = LEFT;
        for (part, shade) in parts.iter().zip(SHADES) {
            self.bar(from, part.us() * scale, shade);
            from += part.us() * scale;
        }
        self.text(from + 8.0, self.at + BAR / 2.0 + 4.5, "start", TEXT, &format!("{bare:.0} µs"));
        self.at += STEP;
        self.name("the broker");
        self.bar(LEFT, whole * scale, COLOURS[1]);
        self.text(
            LEFT + whole * scale + 8.0,
            self.at + BAR / 2.0 + 4.5,
            "start",
            TEXT,
            &format!("{whole:.0} µs"),
        );
        self.at += STEP + 8.0;
        let mut from = LEFT;
        for (part, shade) in parts.iter().zip(SHADES) {
            let label = format!("{} × {}", number_label(part.times), part.short);
            let (square, y) = (from, self.at - 10.0);
            self.out(&format!(
                "<rect x=\"{square:.1}\" y=\"{y:.1}\" width=\"11\" height=\"11\" fill=\"{shade}\"/>"
            ));
            self.text(from + 17.0, self.at, "start", FAINT, &label);
            from += 30.0 + 7.2 * f64::from(u16::try_from(label.chars().count()).unwrap_or(u16::MAX));
        }
        self.at += 44.0;
    }

    /// Each ratio on a scale of its own, whose mark is what it should reach.
    fn goals(&mut self, goals: &[Goal]) {
        self.heading("Ratios", "the mark is what each should reach: blue has reached it, orange has not");
        for goal in goals {
            let scale = (WIDTH - LEFT - RIGHT) / (2.0 * goal.reach);
            let width = (goal.ratio * scale).min(WIDTH - LEFT - RIGHT);
            self.name(goal.name);
            self.bar(LEFT, width, COLOURS[usize::from(!goal.reached())]);
            let mark = LEFT + goal.reach * scale;
            self.out(&format!(
                "<line x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{TEXT}\" stroke-width=\"2\"/>",
                self.at - 4.0,
                self.at + BAR + 4.0
            ));
            let sign = if goal.at_least { "≥" } else { "≤" };
            let said = format!("{:.2} ({sign} {})", goal.ratio, number_label(goal.reach));
            self.text(WIDTH - RIGHT + 8.0, self.at + BAR / 2.0 + 4.5, "start", TEXT, &said);
            self.at += STEP;
        }
    }
}
