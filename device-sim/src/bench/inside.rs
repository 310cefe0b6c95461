//! How long something took inside the broker, as its metrics tell.

use std::collections::BTreeMap;

use super::BenchError;

/// Asks the broker's listener of metrics for all that its counters of this name have counted with one of these labels,
/// each of them as `name="value"`.
pub(super) async fn counted(metrics: &str, name: &str, labels: &[&str]) -> Result<u64, BenchError> {
    let text = read(metrics).await?;
    let count = |line: &str| {
        let (label, count) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
        labels.contains(&label).then_some(count.trim().parse::<u64>().ok()?)
    };
    Ok(text.lines().filter_map(count).sum())
}

/// The buckets of one histogram: how many took at most so long, in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets(BTreeMap<u64, u64>);

impl Buckets {
    /// Asks the broker's listener of metrics.
    pub(super) async fn read(metrics: &str, name: &str) -> Result<Self, BenchError> {
        let missing = || BenchError::Metrics(format!("there is no {name}"));
        Self::parse(&read(metrics).await?, name).ok_or_else(missing)
    }

    /// From the text format of Prometheus.
    fn parse(text: &str, name: &str) -> Option<Self> {
        let line = |line: &str| {
            let (end, count) = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
            let end = if end == "+Inf" { u64::MAX } else { micros(end.parse().ok()?) };
            Some((end, count.trim().parse().ok()?))
        };
        let buckets: BTreeMap<_, _> = text.lines().filter_map(line).collect();
        (!buckets.is_empty()).then_some(Self(buckets))
    }

    /// What came since.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |end| earlier.0.get(end).copied().unwrap_or(0);
        Self(self.0.iter().map(|(end, count)| (*end, count - before(end))).collect())
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.values().next_back().copied().unwrap_or(0)
    }

    /// That part of them took at most so long, in microseconds: within a bucket, as if they were spread evenly.
    #[allow(clippy::cast_precision_loss, reason = "a bucket is coarser")]
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.count() as f64;
        let (mut below, mut counted) = (0u64, 0u64);
        for (end, count) in &self.0 {
            if *count as f64 >= wanted && *count > counted {
                let within = (wanted - counted as f64) / (count - counted) as f64;
                // Beyond the last bucket nobody knows.
                let end = if *end == u64::MAX { below } else { *end };
                return below as f64 + within * (end - below) as f64;
            }
            (below, counted) = (*end, *count);
        }
        f64::NAN
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bucket ends at some positive time"
)]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

async fn read(metrics: &str) -> Result<String, BenchError> {
    get(metrics).await.map_err(|error| BenchError::Metrics(error.to_string()))
}

/// `GET`, from this machine.
async fn get(url: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    use http_body_util::BodyExt as _;
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().ok_or("no address")?.to_string();
    let stream = tokio::net::TcpStream::connect(&authority).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(uri.path())
        .header(http::header::HOST, authority)
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let text = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(String::from_utf8(text.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(text: &str) -> Buckets {
        Buckets::parse(text, "took_seconds").unwrap()
    }

    #[test]
    fn quantiles_are_found_within_their_buckets() {
        let before = buckets(
            "took_seconds_bucket{le=\"0.001\"} 1\ntook_seconds_bucket{le=\"0.002\"} 1\n\
             took_seconds_bucket{le=\"+Inf\"} 1\n",
        );
        let after = buckets(
            "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"0.001\"} 51\n\
             took_seconds_bucket{le=\"0.002\"} 101\ntook_seconds_bucket{le=\"+Inf\"} 101\ntook_seconds_sum 1\n",
        );
        let since = after.since(&before);
        assert_eq!(since.count(), 100);
        for (part, us) in [(0.5, 1_000.0), (0.25, 500.0), (0.75, 1_500.0), (0.99, 1_980.0)] {
            assert!((since.quantile(part) - us).abs() < 1e-6, "{part}: {}", since.quantile(part));
        }
        assert_eq!(Buckets::parse("other_bucket{le=\"1\"} 1", "took_seconds"), None);
    }
}
