//! The code that binds a new phone: a locator, which says which enrolment and is not secret, and a secret of
//! 50 bits, which is used once. Scanned as a URI, or typed.

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// Crockford's base32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// The check symbol is the value modulo 37; five more symbols stand for 32 to 36.
const CHECK_ALPHABET: &[u8; 37] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";

/// Characters of a locator: 40 bits.
pub const LOCATOR_LENGTH: usize = 8;
/// Characters of a secret: 50 bits. Five guesses at most: one in 225 million million.
pub const SECRET_LENGTH: usize = 10;

const MAC_TAG: &[u8] = b"countersign-enrolment-secret-v1";

/// An enrolment code, as text `7K3M-9QXR-VT2B-4HJN-8PD`: locator, secret, check symbol.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentCode {
    locator: String,
    secret: EnrolmentSecret,
}

/// The secret of an enrolment code. Never printed; zeroised when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentSecret(Zeroizing<String>);

/// Why a text is no enrolment code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCode {
    /// Not 19 characters, dashes and spaces aside.
    #[error("an enrolment code has 19 characters, dashes aside, not {0}")]
    Length(usize),
    /// A character that no code contains.
    #[error("no enrolment code contains {0:?}")]
    Character(char),
    /// The check symbol says that something was mistyped.
    #[error("the code was mistyped: its last character does not fit the others")]
    Check,
}

impl EnrolmentCode {
    /// The code made of 12 random bytes (90 of their bits are used).
    pub fn from_random(random: &[u8; 12]) -> Self {
        let bits = random.iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
        let text: String = (0..LOCATOR_LENGTH + SECRET_LENGTH)
            .map(|at| char::from(ALPHABET[usize::try_from((bits >> (5 * at)) & 31).expect("five bits")]))
            .collect();
        let (locator, secret) = text.split_at(LOCATOR_LENGTH);
        Self { locator: locator.to_owned(), secret: EnrolmentSecret(Zeroizing::new(secret.to_owned())) }
    }

    /// The code of these parts, as they were recorded.
    pub fn recorded(locator: &str, secret: EnrolmentSecret) -> Self {
        Self { locator: locator.to_owned(), secret }
    }

    /// Which enrolment. Not secret.
    pub fn locator(&self) -> &str {
        &self.locator
    }

    /// What proves that its bearer was given the code.
    pub fn secret(&self) -> &EnrolmentSecret {
        &self.secret
    }

    /// As it is shown, in groups of four. It holds the secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let plain = Zeroizing::new(format!("{}{}", self.locator, self.secret.0.as_str()));
        let check = char::from(CHECK_ALPHABET[check_value(&plain)]);
        let mut text = Zeroizing::new(String::with_capacity(24));
        for (at, symbol) in plain.chars().chain([check]).enumerate() {
            if at > 0 && at % 4 == 0 {
                text.push('-');
            }
            text.push(symbol);
        }
        text
    }
}

impl FromStr for EnrolmentCode {
    type Err = InvalidCode;

    /// Reads what a person typed: in either case, with dashes and spaces anywhere, O for 0, I and L for 1.
    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let length = text.chars().filter(|symbol| !matches!(symbol, '-' | ' ')).count();
        if length != LOCATOR_LENGTH + SECRET_LENGTH + 1 {
            return Err(InvalidCode::Length(length));
        }
        let mut plain = Zeroizing::new(String::with_capacity(length));
        for symbol in text.chars().filter(|symbol| !matches!(symbol, '-' | ' ')) {
            let read = match symbol.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let last = plain.len() == length - 1;
            let alphabet: &[u8] = if last { CHECK_ALPHABET } else { ALPHABET };
            if !u8::try_from(read).is_ok_and(|byte| alphabet.contains(&byte)) {
                return Err(InvalidCode::Character(symbol));
            }
            plain.push(read);
        }
        let check = plain.pop().expect("the length was checked");
        if char::from(CHECK_ALPHABET[check_value(&plain)]) != check {
            return Err(InvalidCode::Check);
        }
        let (locator, secret) = plain.split_at(LOCATOR_LENGTH);
        Ok(Self { locator: locator.to_owned(), secret: EnrolmentSecret(Zeroizing::new(secret.to_owned())) })
    }
}

/// The code's value modulo 37 (Crockford's check symbol).
fn check_value(plain: &str) -> usize {
    plain.bytes().fold(0, |rest, symbol| {
        let value = ALPHABET
            .iter()
            .position(|known| *known == symbol)
            .expect("only symbols of the alphabet get here");
        (rest * 32 + value) % 37
    })
}

impl EnrolmentSecret {
    /// The secret of its text, as [`EnrolmentSecret::expose`] gave it.
    pub fn from_text(text: &str) -> Option<Self> {
        let valid = text.len() == SECRET_LENGTH && text.bytes().all(|symbol| ALPHABET.contains(&symbol));
        valid.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret itself, to seal it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Proves knowledge of the secret for one new key at one broker, without giving the secret to whoever else
    /// might receive it.
    pub fn mac(&self, locator: &str, broker_key: &[u8], authenticator_key: &[u8]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes()));
        crate::length_prefixed([MAC_TAG, locator.as_bytes(), broker_key, authenticator_key], |part| {
            mac.update(part);
        });
        mac.sign().as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
    }

    /// Checks such a proof, in constant time.
    pub fn verify_mac(&self, locator: &str, broker_key: &[u8], authenticator_key: &[u8], mac: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(
            &self.mac(locator, broker_key, authenticator_key),
            mac,
        )
        .is_ok()
    }
}

impl fmt::Debug for EnrolmentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentSecret(secret)")
    }
}

impl fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolmentCode({}, secret)", self.locator)
    }
}

/// What a QR code holds: where the broker is, the code, and the fingerprint of the broker's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentUri {
    /// The broker's address, such as `https://approve.example.org:8443`.
    pub address: String,
    /// The code.
    pub code: EnrolmentCode,
    /// See [`crate::PublicKey::fingerprint`].
    pub broker_fingerprint: String,
}

/// Why a text is no enrolment URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUri {
    /// Another scheme or version.
    #[error("an enrolment URI begins with countersign://enrol?v=1")]
    Scheme,
    /// A parameter is missing, or there twice.
    #[error("the enrolment URI must hold {0:?} exactly once")]
    Parameter(&'static str),
    /// The code is not one.
    #[error(transparent)]
    Code(#[from] InvalidCode),
    /// The fingerprint is not 64 characters of lower-case hex.
    #[error("the fingerprint in the enrolment URI is not 64 characters of lower-case hex")]
    Fingerprint,
    /// The address is not an https or http URL of host and port.
    #[error("the address in the enrolment URI is not an http or https URL")]
    Address,
}

const URI_START: &str = "countersign://enrol?";

impl EnrolmentUri {
    /// The URI. It holds the code's secret: show it to the person who enrols, and to nobody else.
    pub fn to_text(&self) -> Zeroizing<String> {
        let code = Zeroizing::new(self.code.to_text().replace('-', ""));
        Zeroizing::new(format!(
            "{URI_START}v=1&a={}&c={}&k={}",
            percent_encode(&self.address),
            percent_encode(&code),
            self.broker_fingerprint
        ))
    }
}

impl FromStr for EnrolmentUri {
    type Err = InvalidUri;

    fn from_str(text: &str) -> Result<Self, InvalidUri> {
        let query = text.trim().strip_prefix(URI_START).ok_or(InvalidUri::Scheme)?;
        let parameter = |name: &'static str| {
            let mut values =
                query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == name);
            match (values.next(), values.next()) {
                (Some((_, value)), None) => percent_decode(value).ok_or(InvalidUri::Parameter(name)),
                _ => Err(InvalidUri::Parameter(name)),
            }
        };
        if parameter("v")? != "1" {
            return Err(InvalidUri::Scheme);
        }
        let address = parameter("a")?;
        let host = address.strip_prefix("https://").or(address.strip_prefix("http://"));
        if host.is_none_or(str::is_empty) {
            return Err(InvalidUri::Address);
        }
        let broker_fingerprint = parameter("k")?;
        if broker_fingerprint.len() != 64
            || !broker_fingerprint.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(InvalidUri::Fingerprint);
        }
        Ok(Self { address, code: Zeroizing::new(parameter("c")?).parse()?, broker_fingerprint })
    }
}

/// RFC 3986 section 2.1: all but unreserved characters.
fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(data_encoding::HEXUPPER_PERMISSIVE.decode(&digits).ok()?[0]);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_shown_and_as_people_type_it() {
        let code = EnrolmentCode::from_random(b"some entropy");
        let shown = code.to_text();
        assert_eq!(shown.parse::<EnrolmentCode>().unwrap(), code);
        let typed = shown.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_eq!(typed.parse::<EnrolmentCode>().unwrap(), code);
    }

    proptest! {
        #[test]
        fn a_single_mistyped_character_is_noticed(random: [u8; 12], at in 0usize..18, to in 0usize..32) {
            let shown = EnrolmentCode::from_random(&random).to_text().replace('-', "");
            let mut typed = shown.clone().into_bytes();
            typed[at] = ALPHABET[to];
            let typed = String::from_utf8(typed).unwrap();
            prop_assume!(typed != shown);
            prop_assert_eq!(typed.parse::<EnrolmentCode>(), Err(InvalidCode::Check));
        }

        #[test]
        fn two_neighbours_swapped_are_noticed(random: [u8; 12], at in 0usize..17) {
            let shown = EnrolmentCode::from_random(&random).to_text().replace('-', "");
            let mut typed = shown.clone().into_bytes();
            typed.swap(at, at + 1);
            let typed = String::from_utf8(typed).unwrap();
            prop_assume!(typed != shown);
            prop_assert_eq!(typed.parse::<EnrolmentCode>(), Err(InvalidCode::Check));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in ".{0,80}") {
            let _ = text.parse::<EnrolmentCode>();
            let _ = text.parse::<EnrolmentUri>();
            let _ = format!("{URI_START}{text}").parse::<EnrolmentUri>();
        }

        #[test]
        fn a_uri_is_read_as_it_was_written(random: [u8; 12], port: u16) {
            let uri = EnrolmentUri {
                address: format!("https://approve.example.org:{port}"),
                code: EnrolmentCode::from_random(&random),
                broker_fingerprint: "0123456789abcdef".repeat(4),
            };
            prop_assert_eq!(uri.to_text().parse::<EnrolmentUri>().unwrap(), uri);
        }
    }

    #[test]
    fn a_mac_is_good_for_one_key_at_one_broker() {
        let code = EnrolmentCode::from_random(&[3; 12]);
        let mac = code.secret().mac(code.locator(), b"broker", b"phone");
        assert!(code.secret().verify_mac(code.locator(), b"broker", b"phone", &mac));
        assert!(!code.secret().verify_mac(code.locator(), b"broker", b"other", &mac));
        assert!(!code.secret().verify_mac(code.locator(), b"other", b"phone", &mac));
        assert!(!code.secret().verify_mac("00000000", b"broker", b"phone", &mac));
        assert!(!code.secret().verify_mac(code.locator(), b"brokerp", b"hone", &mac));
    }

    #[test]
    fn a_code_does_not_print_its_secret() {
        let code = EnrolmentCode::from_random(&[3; 12]);
        assert!(!format!("{code:?}").contains(code.secret().expose()));
    }
}
