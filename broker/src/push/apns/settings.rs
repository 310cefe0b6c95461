//! The section `[push.apns]` of the configuration.

use std::{num::NonZeroU8, path::PathBuf};

use serde::Deserialize;

use crate::push::{HttpsUrl, QueueSettings};

/// How pushes go to Apple.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `production` (apps from the App Store and TestFlight), `sandbox` (apps that Xcode put on the phone), or an
    /// address that begins with `https://`. Default `production`.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// The app's bundle identifier.
    pub topic: Topic,
    /// The private key from the developer account (`AuthKey_<key id>.p8`). Must not be writable by others; should
    /// be readable by the broker alone.
    pub key_file: PathBuf,
    /// The key's identifier: 10 capital letters and digits.
    pub key_id: KeyId,
    /// The team's identifier: 10 capital letters and digits.
    pub team_id: TeamId,
    /// The only certificate authorities to trust, as a PEM file. Without it those of the operating system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// So many connections are kept open. Default 4.
    #[serde(default = "connections")]
    pub connections: NonZeroU8,
    /// How pushes wait for Apple.
    #[serde(default)]
    pub queue: QueueSettings,
}

fn connections() -> NonZeroU8 {
    NonZeroU8::new(4).expect("not zero")
}

/// Which of Apple's services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Endpoint {
    /// Apps from the App Store and TestFlight.
    #[default]
    Production,
    /// Apps that Xcode put on the phone.
    Sandbox,
    /// Something else that speaks APNs' protocol.
    Custom(HttpsUrl),
}

impl Endpoint {
    /// Its address.
    pub fn address(&self) -> &str {
        match self {
            Self::Production => "https://api.push.apple.com",
            Self::Sandbox => "https://api.sandbox.push.apple.com",
            Self::Custom(url) => url.as_str(),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "production" => Ok(Self::Production),
            "sandbox" => Ok(Self::Sandbox),
            address if address.contains("://") => HttpsUrl::parse(address).map(Self::Custom),
            other => Err(format!("`{other}` is not `production`, `sandbox` or an https:// address")),
        }
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $fits:expr, $form:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks its form.
            pub fn parse(text: &str) -> Result<Self, String> {
                let fits: fn(&str) -> bool = $fits;
                if fits(text) { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is not {}", $form)) }
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text)
            }
        }
    };
}

identifier!(
    /// The identifier of a key of the developer account.
    KeyId, apple_identifier, "a key identifier: 10 capital letters and digits, as in AuthKey_<key id>.p8"
);
identifier!(
    /// The identifier of a team of developers.
    TeamId, apple_identifier, "a team identifier: 10 capital letters and digits"
);
identifier!(
    /// An app's bundle identifier.
    Topic,
    |text| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        (1..=255).contains(&text.len()) && text.bytes().all(allowed)
    },
    "a bundle identifier: letters, digits, `.` and `-`"
);

fn apple_identifier(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: &str = r#"
        topic = "org.example.countersign"
        key_file = "/etc/countersign/AuthKey_ABC123DEFG.p8"
        key_id = "ABC123DEFG"
        team_id = "DEF123GHIJ"
    "#;

    fn parse(more: &str) -> Result<Settings, String> {
        toml::from_str(&format!("{NEEDED}\n{more}")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_section_means_production_and_four_connections() {
        let settings = parse("").unwrap();
        assert_eq!(settings.endpoint.address(), "https://api.push.apple.com");
        assert_eq!(settings.connections.get(), 4);
        assert_eq!(settings.ca_file, None);
        assert_eq!(settings.queue, QueueSettings::default());
    }

    #[test]
    fn every_field_can_be_set() {
        let settings = parse(
            r#"
            endpoint = "https://localhost:2197/"
            ca_file = "ca.pem"
            connections = 2
            [queue]
            capacity = 10
            in_flight_per_connection = 20
            attempt_timeout_ms = 30
            retry_first_ms = 40
            retry_max_ms = 50
            "#,
        )
        .unwrap();
        assert_eq!(settings.endpoint.address(), "https://localhost:2197");
        assert_eq!(settings.connections.get(), 2);
        assert_eq!(settings.queue.attempt_timeout_ms.get(), 30);
        let sandbox = parse("endpoint = \"sandbox\"").unwrap();
        assert_eq!(sandbox.endpoint.address(), "https://api.sandbox.push.apple.com");
    }

    #[test]
    fn a_wrong_setting_is_refused_with_what_it_should_be() {
        for (more, says) in [
            ("endpoint = \"staging\"", "`production`, `sandbox`"),
            ("endpoint = \"http://localhost\"", "must begin with https://"),
            ("endpoint = \"https://key@localhost\"", "must end with its path"),
            ("conections = 3", "unknown field `conections`"),
            ("connections = 0", "nonzero"),
            ("[queue]\ncapacity = 0", "nonzero"),
            ("[queue]\nlength = 5", "unknown field `length`"),
        ] {
            let error = parse(more).unwrap_err();
            assert!(error.contains(says), "{more}: {error}");
        }
        let lower = NEEDED.replace("ABC123DEFG\"\n        team", "abc123defg\"\n        team");
        assert!(toml::from_str::<Settings>(&lower).unwrap_err().to_string().contains("capital letters"));
    }
}
