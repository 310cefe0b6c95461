//! Certificate authorities, and brokers that have their certificates.

use std::{fs, path::Path};

use bytes::Bytes;
use countersign_tests::{Broker, Result};
use device_sim::wire::Transport;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate of an authority, with its key.
pub(crate) struct Certified {
    pub(crate) pem: String,
    pub(crate) der: Bytes,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "A test's authority");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    pub(crate) fn server(&self) -> Result<Certified> {
        self.certify(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(&self, name: &str) -> Result<Certified> {
        self.certify(&[name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<Certified> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![usage];
        params.not_after = rcgen::date_time_ymd(2048, 2, 3);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certified {
            pem: certificate.pem(),
            der: certificate.der().to_vec().into(),
            key: key.serialize_pem(),
        })
    }
}

/// A broker behind TLS that takes clients' certificates.
pub(crate) struct Secured {
    pub(crate) broker: Broker,
    pub(crate) authority: Authority,
    pub(crate) clients: Authority,
}

impl Secured {
    pub(crate) fn start() -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (authority, clients) = (Authority::new()?, Authority::new()?);
        let mut broker = Broker::make("")?;
        let section = tls_section("server.tls", &broker.home(), &authority.server()?, &clients)?;
        broker.edit_configuration(|text| {
            text.replace("public_url = \"http://127.0.0.1", "public_url = \"https://localhost") + &section
        })?;
        broker.start()?;
        Ok(Self { broker, authority, clients })
    }

    pub(crate) fn address(&self) -> String {
        format!("https://localhost:{}", self.broker.port())
    }

    /// The way of a client that trusts the broker's authority, with a certificate of its own if it has one.
    pub(crate) fn transport(&self, certified: Option<&Certified>) -> Result<Transport> {
        let way = Transport::to(self.address()).trusting(&self.authority.pem);
        let way = match certified {
            Some(certified) => way.as_client(&certified.pem, &certified.key),
            None => way,
        };
        Ok(way.open()?)
    }
}

/// The section of a configuration, and the files that it names.
pub(crate) fn tls_section(
    name: &str,
    folder: &Path,
    server: &Certified,
    clients: &Authority,
) -> Result<String> {
    for (file, content) in [("chain", &server.pem), ("key", &server.key), ("clients", &clients.pem)] {
        fs::write(folder.join(format!("{name}.{file}.pem")), content)?;
    }
    Ok(format!(
        "\n[{name}]\ncertificate_file = \"{name}.chain.pem\"\nkey_file = \"{name}.key.pem\"\n\
         client_ca_file = \"{name}.clients.pem\"\n"
    ))
}
