//! What may stand on a phone's screen. A text that turns its surroundings round, or hides a part of itself, can make
//! one sign-in look like another.

use std::borrow::Cow;

/// The first character of `text` that must not be shown: control characters (Unicode's Cc), the bidirectional controls
/// of UAX #9, line and paragraph separators, and what has no width or look of its own.
pub fn disguise(text: &str) -> Option<char> {
    text.chars().find(|symbol| {
        symbol.is_control()
            || matches!(u32::from(*symbol),
                // Soft hyphen, joiners, Hangul and Khmer fillers, Mongolian separators.
                0x00ad | 0x034f | 0x061c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
                // Zero width, marks, separators, embeddings, overrides, isolates, invisible operators.
                | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
                // Fillers, variation selectors, byte order mark, interlinear annotation, musical format, tags.
                | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
                | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
    })
}

/// The text as it may stand on any screen: what must not be shown gives way to U+FFFD. For what cannot be refused, such
/// as the words of a refusal: a terminal does what its escape sequences say.
pub fn shown(text: &str) -> Cow<'_, str> {
    if disguise(text).is_none() {
        return Cow::Borrowed(text);
    }
    let may_be_shown = |symbol: char| disguise(symbol.encode_utf8(&mut [0; 4])).is_none();
    text.chars().map(|symbol| if may_be_shown(symbol) { symbol } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_turns_round_what_follows_is_found_out() {
        assert_eq!(disguise("Zürich\u{202e}nodnoL"), Some('\u{202e}'));
        assert_eq!(disguise("line\nbreak"), Some('\n'));
        assert_eq!(disguise("esc\u{1b}[2J"), Some('\u{1b}'));
        assert_eq!(disguise("zero\u{200b}width"), Some('\u{200b}'));
    }

    #[test]
    fn a_terminal_is_told_nothing_by_what_came_from_elsewhere() {
        assert_eq!(shown("gone\u{1b}[2J\u{1b}]0;title\u{7}"), "gone\u{fffd}[2J\u{fffd}]0;title\u{fffd}");
        assert_eq!(
            shown("\u{9b}31m\r\n\u{202e}lanoitceridib"),
            "\u{fffd}31m\u{fffd}\u{fffd}\u{fffd}lanoitceridib"
        );
        assert!(matches!(shown("Göteborg — 東京"), Cow::Borrowed("Göteborg — 東京")));
    }

    #[test]
    fn every_script_may_be_read() {
        for text in ["Göteborg, Sverige", "東京", "تونس", "Firefox on Linux", "naïve — “quoted”"]
        {
            assert_eq!(disguise(text), None, "{text}");
        }
    }
}
