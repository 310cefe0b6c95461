//! Servers that speak HTTP and are no push services.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use countersign_domain::event::PushServiceKind::{Apns, Fcm};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpListener;

use super::*;
use crate::push::{Accepted, Error, HttpsUrl, PushService};

/// Serves `app` with the simulated services' certificate, over what `alpn` offers; its address.
async fn serve(simulated: &Simulated, alpn: &[&[u8]], app: Router) -> String {
    let pem = std::fs::read(simulated.files.ca.with_file_name("server.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, app) = (tls.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = TowerToHyperService::new(app);
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    format!("https://localhost:{}", address.port())
}

impl Simulated {
    async fn push_to_apns_at(&self, address: &str) -> Result<Accepted, Error> {
        let mut settings = self.apns("connections = 1");
        settings.endpoint = address.to_owned().try_into().unwrap();
        let connection = apns_client::connect(&settings).unwrap().connections.remove(0);
        let now = self.now();
        let target = target(Apns, &"ab".repeat(32));
        soon(connection.send(&target, &message(PushKind::Challenge, now), now)).await
    }

    async fn push_to_fcm_at(&self, address: &str) -> Result<Accepted, Error> {
        let mut settings = self.fcm("connections = 1");
        settings.endpoint = HttpsUrl::parse(address).unwrap();
        let connection = fcm_client::connect(&settings).unwrap().connections.remove(0);
        push_by(&*connection, self.now()).await
    }

    /// Pushes to the simulated FCM with a service account whose token endpoint is elsewhere.
    async fn push_with_token_from(&self, address: &str) -> Result<Accepted, Error> {
        let account = std::fs::read_to_string(&self.files.service_account).unwrap();
        let account = account.replace(&self.services.token_uri(), &format!("{address}/token"));
        let file = self.folder.path().join("account.json");
        std::fs::write(&file, account).unwrap();
        let mut settings = self.fcm("connections = 1");
        settings.service_account_file = file;
        let connection = fcm_client::connect(&settings).unwrap().connections.remove(0);
        push_by(&*connection, self.now()).await
    }
}

async fn push_by(connection: &dyn PushService, now: Timestamp) -> Result<Accepted, Error> {
    let target = target(Fcm, "a-registration-token");
    soon(connection.send(&target, &message(PushKind::Challenge, now), now)).await
}

/// A body that never ends.
fn endless() -> Body {
    let chunks = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4_096])));
    Body::from_stream(chunks)
}

fn any(answer: impl Fn() -> (StatusCode, HeaderMap, Body) + Clone + Send + Sync + 'static) -> Router {
    Router::new().fallback(post(move || async move { answer() }))
}

const H2: &[&[u8]] = &[b"h2"];

#[tokio::test]
async fn an_answer_without_end_is_read_no_further_than_makes_sense() {
    let simulated = Simulated::start().await;
    let app = any(|| (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), endless()));
    let address = serve(&simulated, H2, app).await;
    let retry = |reason: &str| Error::Retry { reason: reason.to_owned(), after: None };
    assert_eq!(simulated.push_to_apns_at(&address).await, Err(retry("status 500")));
    assert_eq!(simulated.push_to_fcm_at(&address).await, Err(retry("status 500")));
    let no_token = simulated.push_with_token_from(&address).await;
    assert_eq!(no_token, Err(retry("no access token: 500")));
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_our_credentials() {
    let simulated = Simulated::start().await;
    let elsewhere = simulated.services.fcm_url();
    let app = any(move || {
        let mut headers = HeaderMap::new();
        headers.insert("location", format!("{elsewhere}/token").parse().unwrap());
        (StatusCode::TEMPORARY_REDIRECT, headers, Body::empty())
    });
    let address = serve(&simulated, H2, app).await;
    let refused = Err(Error::Refused { reason: "status 307".to_owned() });
    assert_eq!(simulated.push_to_apns_at(&address).await, refused);
    assert_eq!(simulated.push_to_fcm_at(&address).await, refused);
    let no_token = simulated.push_with_token_from(&address).await;
    assert!(matches!(&no_token, Err(Error::Refused { reason }) if reason.contains("307")), "{no_token:?}");
}

#[tokio::test]
async fn an_accepted_push_is_accepted_whatever_else_the_answer_holds() {
    let simulated = Simulated::start().await;
    for body in ["", "nonsense", r#"{"name":7}"#] {
        let app = any(move || (StatusCode::OK, HeaderMap::new(), Body::from(body)));
        let address = serve(&simulated, H2, app).await;
        let accepted = Ok(Accepted { push_id: String::new() });
        assert_eq!(simulated.push_to_apns_at(&address).await, accepted);
        assert_eq!(simulated.push_to_fcm_at(&address).await, accepted);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_gives_no_token_is_refused() {
    let simulated = Simulated::start().await;
    for body in ["", "{}", r#"{"access_token":"a\r\nb","expires_in":3600}"#, r#"{"access_token":"a"}"#] {
        let app = any(move || (StatusCode::OK, HeaderMap::new(), Body::from(body)));
        let address = serve(&simulated, H2, app).await;
        let answer = simulated.push_with_token_from(&address).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn a_token_endpoint_may_speak_http_1_and_a_push_service_may_not() {
    let simulated = Simulated::start().await;
    let granted = r#"{"access_token":"a","expires_in":3600,"token_type":"Bearer"}"#;
    let app = any(move || (StatusCode::OK, HeaderMap::new(), Body::from(granted)));
    let address = serve(&simulated, &[b"http/1.1"], app).await;
    // The token is none of the simulated FCM's, nor is the next.
    let answer = simulated.push_with_token_from(&address).await;
    assert!(
        matches!(&answer, Err(Error::Refused { reason }) if reason.starts_with("UNAUTHENTICATED")),
        "{answer:?}"
    );
    let answer = simulated.push_to_apns_at(&address).await;
    assert!(matches!(answer, Err(Error::Unreachable { .. })), "{answer:?}");
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let simulated = Simulated::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    drop(listener);
    match simulated.push_to_apns_at(&address).await {
        Err(Error::Unreachable { reason }) => assert!(reason.starts_with("cannot connect"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match simulated.push_with_token_from(&address).await {
        Err(Error::Retry { reason, .. }) => {
            assert!(reason.starts_with("no access token: cannot"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
