//! Whether the limits of an address meet those whom they are for: behind a proxy, all callers are one address.

use countersign::config::Config;

use super::{report::Findings, tls::host};

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    let all = [
        ("calls_per_s_of_address", limits.calls_per_s_of_address),
        ("failures_per_s_of_address", limits.failures_per_s_of_address),
    ];
    let on: Vec<_> = all.into_iter().filter(|(_, limit)| *limit > 0).map(|(key, _)| key).collect();
    let on = on.join(" and ");
    if on.is_empty() {
        findings.good("callers", "no limit of an address is on: limit addresses where callers come in");
    } else if config.server.listen.ip().is_loopback() && !is_this_machine(config) {
        findings.warn(
            "callers",
            format!(
                "public_url leads elsewhere, and server.listen is this machine's alone: all come through a proxy, have its \
                 address, and share what is for one ({on})"
            ),
            "[limits] calls_per_s_of_address = 0, failures_per_s_of_address = 0, connections_per_address as connections; \
             limit addresses at the proxy",
        );
    } else {
        findings.good(
            "callers",
            format!("{on} count addresses as they are seen here: behind what shows its own, set them to 0"),
        );
    }
}

/// Whether phones, too, are on this machine: a trial.
fn is_this_machine(config: &Config) -> bool {
    let host = host(config).unwrap_or_default();
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
