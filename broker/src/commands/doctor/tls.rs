//! Certificates: whether callers would believe them, and for how long.

use std::{path::Path, time::Duration};

use countersign::{
    api::tls::certificates,
    clock::{Clock as _, SystemClock},
    config::Config,
};
use countersign_domain::Timestamp;
use reqwest::Url;
use rustls::{
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::report::Findings;

/// A certificate that ends sooner should have been renewed: those who renew by themselves do it a month ahead.
const RENEWED_AHEAD: Duration = Duration::from_secs(14 * DAY_S);
const DAY_S: u64 = 24 * 60 * 60;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    match &config.server.tls {
        Some(tls) => certificate("server.tls", &tls.certificate_file, host(config).as_deref(), findings),
        None => findings
            .good("server.tls", format!("none: {} is this machine's alone", config.server.listen.ip())),
    }
    if let Some(tls) = &config.admin.tls {
        certificate("admin.tls", &tls.certificate_file, None, findings);
    }
}

/// The name that phones call.
pub(super) fn host(config: &Config) -> Option<String> {
    let url = Url::parse(&config.public_url).ok()?;
    url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}

fn certificate(section: &'static str, file: &Path, name: Option<&str>, findings: &mut Findings) {
    // What cannot be read, or does not match its key, has been found.
    if findings.is_wrong(section) {
        return;
    }
    let (leaf, file) = (certificates(file).ok().and_then(|chain| chain.into_iter().next()), file.display());
    let Some((leaf, validity)) = leaf.and_then(|leaf| Some((leaf.clone(), Validity::of(&leaf)?))) else {
        return findings.warn(
            section,
            format!("{file}: its first certificate cannot be read"),
            "look at it: openssl x509 -text",
        );
    };
    let now = SystemClock.now();
    let renew =
        "renew it, and put certificate and key in the place of the old ones: a running broker finds them";
    if now > validity.until {
        findings.fail(
            section,
            format!("{file}: has been over for {}: nobody connects", days(validity.until.until(now))),
            renew,
        );
    } else if now < validity.from {
        let todo = "wait, or look at this machine's clock";
        findings.fail(
            section,
            format!("{file}: is good only in {}: nobody connects", days(now.until(validity.from))),
            todo,
        );
    } else if now.until(validity.until) < RENEWED_AHEAD {
        findings.warn(
            section,
            format!("{file}: is good for {} more", days(now.until(validity.until))),
            renew,
        );
    } else {
        findings.good(section, format!("{file}: is good for {} more", days(now.until(validity.until))));
    }
    if let Some(name) = name.filter(|name| !names(&leaf, name)) {
        findings.warn(
            section,
            format!("{file}: is not for {name}, which public_url leads phones to"),
            format!(
                "have it issued for {name}; if a proxy stands before the broker, its certificate must be"
            ),
        );
    }
}

/// From when to when a certificate is good.
struct Validity {
    from: Timestamp,
    until: Timestamp,
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let moment = |seconds: i64| {
            Timestamp::from_millis(u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000))
        };
        let validity = parsed.validity();
        Some(Self {
            from: moment(validity.not_before.timestamp()),
            until: moment(validity.not_after.timestamp()),
        })
    }
}

fn names(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(name))
    else {
        return false;
    };
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}

fn days(span: Duration) -> String {
    match span.as_secs() / DAY_S {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}
