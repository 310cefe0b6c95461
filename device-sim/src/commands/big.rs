//! Numbers to be read from across a room, and QR codes to be read by a camera.

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

/// Each digit as five rows, like the seven segments of a clock.
const ROWS: [[&str; 5]; 10] = [
    ["██████", "██  ██", "██  ██", "██  ██", "██████"],
    ["  ██  ", "████  ", "  ██  ", "  ██  ", "██████"],
    ["██████", "    ██", "██████", "██    ", "██████"],
    ["██████", "    ██", " █████", "    ██", "██████"],
    ["██  ██", "██  ██", "██████", "    ██", "    ██"],
    ["██████", "██    ", "██████", "    ██", "██████"],
    ["██████", "██    ", "██████", "██  ██", "██████"],
    ["██████", "    ██", "   ██ ", "  ██  ", "  ██  "],
    ["██████", "██  ██", "██████", "██  ██", "██████"],
    ["██████", "██  ██", "██████", "    ██", "██████"],
];

/// The digits of a number, large; what is no digit is left out.
pub(crate) fn digits(number: &str, paint: impl Fn(&str) -> String) -> String {
    let digits: Vec<&[&str; 5]> =
        number.chars().filter_map(|symbol| symbol.to_digit(10)).map(|digit| &ROWS[digit as usize]).collect();
    (0..5)
        .map(|row| {
            let line: Vec<&str> = digits.iter().map(|digit| digit[row]).collect();
            format!("    {}", paint(line.join("   ").trim_end()))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// A QR code in half blocks. On paper, the dark modules are what is drawn; without, what is drawn is taken to be the
/// light ones, as it is on most terminals. `None` if the text is too long for a code.
pub(crate) fn qr_code(text: &str, is_on_paper: bool) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (dark, light) =
        if is_on_paper { (Dense1x2::Dark, Dense1x2::Light) } else { (Dense1x2::Light, Dense1x2::Dark) };
    Some(code.render::<Dense1x2>().dark_color(dark).light_color(light).quiet_zone(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_drawn_with_its_leading_zero() {
        let drawn = digits("07", str::to_owned);
        assert_eq!(drawn.lines().count(), 5);
        assert_eq!(drawn.lines().next(), Some("    ██████   ██████"));
        assert_eq!(drawn.lines().nth(1), Some("    ██  ██       ██"));
    }

    #[test]
    fn an_enrolment_uri_fits_into_a_qr_code_of_a_terminals_width() {
        let uri = format!(
            "countersign://enrol?v=1&a=https%3A%2F%2Fapprove.example.org%3A8443&c=7K3M9QXRVT2B4HJN8PD&k={}",
            "0123456789abcdef".repeat(4)
        );
        let code = qr_code(&uri, true).expect("it fits");
        assert!(code.lines().all(|line| line.chars().count() <= 80));
    }
}
