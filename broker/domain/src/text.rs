//! Texts that people are shown, bounded and free of what could disguise them.

use std::fmt;

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization;

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing in it, or nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("has {found} characters, at most {most} are allowed")]
    TooLong {
        /// The limit, in characters.
        most: usize,
        /// What came.
        found: usize,
    },
    /// Control characters, and characters that change the direction or the looks of what surrounds them.
    #[error("contains U+{code:04X}, a control, formatting or bidirectional character", code = u32::from(*.0))]
    Character(char),
    /// Something else than the characters that a name of this kind has.
    #[error("contains {0:?}; only a-z, 0-9, '.' and '-' are allowed")]
    NotInRealm(char),
}

/// A text to show to a person: no control, formatting or bidirectional characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DisplayText(Box<str>);

impl DisplayText {
    /// Checks a text of 1 to `most` characters. White space round it is taken off.
    pub fn parse(text: &str, most: usize) -> Result<Self, InvalidText> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidText::Empty);
        }
        // Characters are counted only as far as the limit can matter: the input is somebody else's.
        if text.len() > most {
            let found = text.chars().count();
            if found > most {
                return Err(InvalidText::TooLong { most, found });
            }
        }
        match text.chars().find(|symbol| disguises(*symbol)) {
            Some(symbol) => Err(InvalidText::Character(symbol)),
            None => Ok(Self(text.into())),
        }
    }

    /// The same, where the text may be empty.
    pub fn parse_optional(text: &str, most: usize) -> Result<Option<Self>, InvalidText> {
        if text.trim().is_empty() { Ok(None) } else { Self::parse(text, most).map(Some) }
    }

    /// What was recorded, which was checked by the release that recorded it.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DisplayText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DisplayText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Cc, Cf with the bidirectional controls (UAX #9), line and paragraph separators, and invisible fillers.
fn disguises(symbol: char) -> bool {
    symbol.is_control()
        || matches!(symbol,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A realm: the accounts that share one space of names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(Box<str>);

impl Realm {
    /// 1 to 64 of a-z, 0-9, '.', '-'.
    pub fn parse(text: &str) -> Result<Self, InvalidText> {
        if text.is_empty() {
            return Err(InvalidText::Empty);
        }
        if text.len() > crate::limits::REALM_CHARACTERS_MAX {
            return Err(InvalidText::TooLong {
                most: crate::limits::REALM_CHARACTERS_MAX,
                found: text.chars().count(),
            });
        }
        match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-')) {
            Some(symbol) => Err(InvalidText::NotInRealm(symbol)),
            None => Ok(Self(text.into())),
        }
    }

    /// What was recorded.
    pub fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an account as people compare it: NFKC and full case folding, so that "Åsa" and "åsa", "STRASSE" and
/// "straße" are one account however they were typed (as Unicode's compatibility caseless match, D146; RFC 8265's
/// UsernameCaseMapped is the stricter relative). Folding is the default one, not the Turkish: "I" is "i", and a dotless
/// "ı" is another letter.
///
/// The ids of accounts are made of it: for characters that a release has known it never changes.
pub fn normalised_account_name(name: &DisplayText) -> String {
    let mut text: String = name.as_str().nfkc().collect();
    // Each can make work for the other: what folding yields may compose, and what that yields may fold.
    loop {
        let folded: String = UniCase::unicode(&text).to_folded_case().nfkc().collect();
        if folded == text {
            return text;
        }
        text = folded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_could_disguise_itself_is_refused() {
        for disguised in ["a\u{202e}b", "a\u{2066}b", "a\nb", "a\u{200b}b", "a\u{e0041}b", "\u{7f}x"] {
            assert!(
                matches!(DisplayText::parse(disguised, 80), Err(InvalidText::Character(_))),
                "{}",
                disguised.escape_unicode()
            );
        }
        assert!(DisplayText::parse("Zürich, 東京, تونس", 80).is_ok());
    }

    #[test]
    fn the_limit_counts_characters_not_bytes() {
        assert!(DisplayText::parse(&"é".repeat(80), 80).is_ok());
        assert_eq!(
            DisplayText::parse(&"é".repeat(81), 80),
            Err(InvalidText::TooLong { most: 80, found: 81 })
        );
        assert_eq!(DisplayText::parse(" \t", 80), Err(InvalidText::Empty));
    }

    #[test]
    fn one_person_has_one_name_however_it_is_typed() {
        assert_eq!(name("Åsa"), name("a\u{30a}sa"));
        assert_eq!(name("ＡＳＡ"), name("asa"));
        assert_ne!(name("asa"), name("åsa"));
    }

    fn name(text: &str) -> String {
        normalised_account_name(&DisplayText::recorded(text))
    }

    #[test]
    fn one_person_has_one_name_in_every_script_that_has_cases() {
        for (one, other, normal) in [
            // Full folding: more letters than there were.
            ("straße", "STRASSE", "strasse"),
            ("STRA\u{1e9e}E", "strasse", "strasse"),
            // A final sigma is a sigma.
            ("οδυσσευς", "ΟΔΥΣΣΕΥΣ", "οδυσσευσ"),
            ("Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ", "ὀδυσσεύσ"),
            // An iota below is an iota beside.
            ("ᾳδης", "ΑΙΔΗΣ", "αιδησ"),
            ("\u{fb03}", "FFI", "ffi"),
            ("\u{fb06}", "\u{17f}T", "st"),
            ("\u{1c4}", "d\u{17e}", "d\u{17e}"),
            ("ＡＳＡ１", "asa1", "asa1"),
            ("\u{212a}elvin", "kelvin", "kelvin"),
            ("\u{2126}", "Ω", "ω"),
            ("ΰ", "Ϋ\u{301}", "ΰ"),
            ("\u{13f8}", "\u{13f0}", "\u{13f0}"),
            ("ДМИТРИЙ", "дмитрий", "дмитрий"),
        ] {
            assert_eq!(name(one), name(other), "{one} and {other}");
            assert_eq!(name(one), normal, "{one}");
        }
        // Default folding, whatever the locale: the Turkish letters stay what they are.
        assert_eq!(name("ISTANBUL"), "istanbul");
        assert_eq!(name("\u{130}stanbul"), "i\u{307}stanbul");
        assert_ne!(name("\u{131}rmak"), name("irmak"));
        assert_eq!(name("\u{131}rmak"), "\u{131}rmak");
    }

    #[test]
    fn every_character_has_one_normal_form() {
        for symbol in char::MIN..=char::MAX {
            let once = name(&symbol.to_string());
            assert_eq!(name(&once), once, "U+{:04X}", u32::from(symbol));
            let upper: String = symbol.to_uppercase().collect();
            let lower: String = symbol.to_lowercase().collect();
            // Cases that no folding joins: dotless i, the Turkish capital, and what a newer Unicode may add.
            if !matches!(symbol, '\u{131}' | '\u{130}') {
                assert_eq!(name(&upper), once, "U+{:04X}", u32::from(symbol));
                assert_eq!(name(&lower), once, "U+{:04X}", u32::from(symbol));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_normal_name_is_its_own_normal_form(text in "\\PC{0,40}") {
            let once = name(&text);
            proptest::prop_assert_eq!(name(&once), once);
        }

        #[test]
        fn neither_case_nor_composition_makes_another_name(text in "[a-zß-ÿΐ-ώά-ώѐ-џﬀ-ﬆǄ-ǌ\u{300}-\u{304}]{0,20}") {
            let once = name(&text);
            let nfd: String = text.nfd().collect();
            proptest::prop_assert_eq!(name(&nfd), once.as_str());
            let nfkc: String = text.nfkc().collect();
            proptest::prop_assert_eq!(name(&nfkc), once.as_str());
            let folded = unicase::UniCase::unicode(&text).to_folded_case();
            proptest::prop_assert_eq!(name(&folded), once.as_str());
        }
    }

    #[test]
    fn an_error_names_the_character_that_nobody_can_see() {
        let error = DisplayText::parse("a\u{202e}b", 80).unwrap_err();
        assert!(error.to_string().contains("U+202E"));
    }
}
