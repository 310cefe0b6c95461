//! What pictures of a load are drawn on: SVG, all in one hand.

use std::fmt::Write as _;

/// Colours that differ for everybody (Okabe and Ito, 2008).
pub const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];
/// Of words that are beside the point.
pub const GREY: &str = "#666";

/// A picture in the making.
#[derive(Debug)]
pub struct Canvas {
    svg: String,
}

/// Which end of a text stands where it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

impl Canvas {
    /// A white sheet with a title and what stands below it, both beginning at `left`.
    pub fn new((width, height): (f64, f64), left: f64, title: &str, below: &str) -> Self {
        let mut canvas = Self { svg: String::new() };
        canvas.draw(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{title}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"{left}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1a1a1a\">{title}</text>\n\
             <text x=\"{left}\" y=\"46\" fill=\"{GREY}\">{below}</text>"
        ));
        canvas
    }

    /// Anything else.
    pub fn draw(&mut self, element: &str) {
        let _ = writeln!(self.svg, "{element}");
    }

    /// A line to read values by.
    pub fn grid(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.draw(&format!(
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>",
            from.0, to.0, from.1, to.1
        ));
    }

    /// What such a line stands for.
    pub fn label(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.draw(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{GREY}\">{text}</text>"
        ));
    }

    /// What was measured.
    pub fn curve(&mut self, colour: &str, width: f64, points: impl IntoIterator<Item = (f64, f64)>) {
        let points: Vec<_> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.draw(&format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" \
             points=\"{}\"/>",
            points.join(" ")
        ));
    }

    /// Its name in its colour, with figures below.
    pub fn name(&mut self, (x, y): (f64, f64), colour: &str, name: &str, figures: &str) {
        self.draw(&format!(
            "<text x=\"{x}\" y=\"{y:.1}\"><tspan fill=\"{colour}\" font-weight=\"600\">{name}</tspan>\
             <tspan x=\"{x}\" dy=\"16\" fill=\"{GREY}\">{figures}</tspan></text>"
        ));
    }

    /// The picture.
    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Whole decades round all these times, in microseconds.
pub fn decades(us: impl IntoIterator<Item = u64> + Clone) -> (f64, f64) {
    let low = us.clone().into_iter().min().unwrap_or(1_000);
    let high = us.into_iter().max().unwrap_or(1_000_000);
    let low = number(low.max(1)).log10().floor();
    (low, number(high.max(1)).log10().ceil().max(low + 1.0))
}

/// What a line at a decade of microseconds is called.
pub fn decade(power: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most ten minutes")]
    let us = 10f64.powf(power).round() as u64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// A number without the digits that say nothing.
pub fn number_label(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}

/// As a coordinate.
#[allow(clippy::cast_precision_loss, reason = "a pixel is coarser")]
pub fn number(value: u64) -> f64 {
    value as f64
}
