//! `countersign relying-party` and `countersign credential`: what operators ask of a running broker.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use countersign_proto::v1;

use super::admin_client::{connect, said};
use crate::ConfigFile;

/// `countersign relying-party`
#[derive(Debug, Subcommand)]
pub(crate) enum RelyingPartyCommand {
    /// Register a login server or an enrolling page
    Register(Register),
    /// List those that are registered, with their credentials
    List {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// What it is registered with.
#[derive(Debug, Args)]
pub(crate) struct Register {
    #[command(flatten)]
    config: ConfigFile,
    /// Its name, as phones show it
    #[arg(long)]
    name: String,
    /// What it may ask for, as phones show it; several times for several
    #[arg(long = "application", required = true, value_name = "NAME")]
    applications: Vec<String>,
    /// The realm of accounts that it may ask for
    #[arg(long)]
    realm: String,
}

/// `countersign credential`
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Issue an API key, or take a client certificate as a credential
    Issue(Issue),
    /// Refuse a credential from now on
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// Its id
        credential: String,
    },
}

/// What a credential is issued with.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    config: ConfigFile,
    /// The relying party's id
    #[arg(long, value_name = "ID")]
    relying_party: String,
    /// What it is for
    #[arg(long)]
    scope: Scope,
    /// Write the API key to this file, for its owner to read alone, instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// No API key: this client certificate (PEM) is the credential
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    certificate: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scope {
    /// Have sign-in attempts approved
    SignIn,
    /// Enrol phones, list and revoke them
    Enrolment,
}

pub(crate) async fn relying_party(command: RelyingPartyCommand) -> anyhow::Result<()> {
    match command {
        RelyingPartyCommand::Register(register) => {
            let Register { config, name, applications, realm } = register;
            let config = config.load()?;
            let mut broker = connect(&config).await?;
            let request = v1::RegisterRelyingPartyRequest { name, applications, realm };
            let registered =
                broker.register_relying_party(request).await.map_err(|status| said(&status))?.into_inner();
            println!("{}", registered.relying_party_id);
            eprintln!("Registered. Next, one key for each thing that it does:");
            let id = &registered.relying_party_id;
            let issue = format!(
                "countersign credential issue --config {} --relying-party {id}",
                config.file().display()
            );
            eprintln!("  {issue} --scope sign-in --out sign-in.key");
            eprintln!("  {issue} --scope enrolment --out enrolment.key");
        }
        RelyingPartyCommand::List { config } => {
            let config = config.load()?;
            let mut broker = connect(&config).await?;
            let request = v1::ListRelyingPartiesRequest {};
            let listed =
                broker.list_relying_parties(request).await.map_err(|status| said(&status))?.into_inner();
            if listed.relying_parties.is_empty() {
                eprintln!(
                    "None yet: countersign relying-party register --config {} --name 'My login' --application \
                     'Webmail' --realm example.org",
                    config.file().display()
                );
            }
            listed.relying_parties.iter().for_each(print);
        }
    }
    Ok(())
}

fn print(one: &v1::RelyingParty) {
    println!("{}  {}  realm {}  {}", one.relying_party_id, one.name, one.realm, one.applications.join(", "));
    for credential in &one.credentials {
        let scope = match credential.scope() {
            v1::CredentialScope::SignIn => "sign-in",
            v1::CredentialScope::Enrolment => "enrolment",
            v1::CredentialScope::Unspecified => "?",
        };
        let kind = match credential.kind() {
            v1::credential::Kind::ApiKey => "API key",
            v1::credential::Kind::ClientCertificate => "client certificate",
            v1::credential::Kind::Unspecified => "?",
        };
        let state = match (&credential.revoked_at, &credential.issued_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) => format!("issued {at}"),
            (None, None) => String::new(),
        };
        println!("    {}  {scope}  {kind}  {state}", credential.credential_id);
    }
}

pub(crate) async fn credential(command: CredentialCommand) -> anyhow::Result<()> {
    match command {
        CredentialCommand::Issue(new) => issue(&new).await?,
        CredentialCommand::Revoke { config, credential } => {
            let mut broker = connect(&config.load()?).await?;
            let request = v1::RevokeCredentialRequest { credential_id: credential };
            broker.revoke_credential(request).await.map_err(|status| refused(&status))?;
            eprintln!("Revoked.");
        }
    }
    Ok(())
}

/// The file first, and the key into it: a key that cannot be written down is a good one that nobody has.
async fn issue(new: &Issue) -> anyhow::Result<()> {
    let config = new.config.load()?;
    let request = v1::IssueCredentialRequest {
        relying_party_id: new.relying_party.clone(),
        scope: match new.scope {
            Scope::SignIn => v1::CredentialScope::SignIn,
            Scope::Enrolment => v1::CredentialScope::Enrolment,
        }
        .into(),
        client_certificate: certificate(new)?.into(),
    };
    let mut broker = connect(&config).await?;
    let file = new.out.as_deref().map(PrivateFile::make).transpose()?;
    let issued = broker.issue_credential(request).await.map_err(|status| refused(&status))?.into_inner();
    let id = &issued.credential_id;
    match (file, issued.api_key.as_str()) {
        (_, "") => eprintln!("Issued {id}: whoever shows the certificate is let in."),
        (Some(file), key) => {
            let path = file.path.display().to_string();
            file.write(key).with_context(|| {
                format!(
                    "{path}: the key could not be written and is lost: countersign credential revoke {id}"
                )
            })?;
            eprintln!("Issued {id}; the key is in {path}.");
        }
        (None, key) => {
            eprintln!("Issued {id}. The API key follows on standard output. It is shown this once.");
            println!("{key}");
        }
    }
    Ok(())
}

/// What the broker says, and where ids come from if that is what is wrong.
fn refused(status: &tonic::Status) -> anyhow::Error {
    let said = said(status);
    let about_ids = matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::NotFound);
    if about_ids && [" id", "no such"].iter().any(|part| status.message().contains(part)) {
        anyhow::anyhow!("{said} (`countersign relying-party list` shows them)")
    } else {
        said
    }
}

fn certificate(issue: &Issue) -> anyhow::Result<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    match &issue.certificate {
        None => Ok(Vec::new()),
        Some(file) => Ok(CertificateDer::from_pem_file(file)
            .map_err(|error| {
                anyhow::anyhow!("{}: holds no certificate in PEM form: {error}", file.display())
            })?
            .to_vec()),
    }
}

/// A file that its owner alone can read, and that takes no other's place.
pub(crate) fn write_private(file: &Path, secret: &str) -> anyhow::Result<()> {
    PrivateFile::make(file)?.write(secret)
}

/// The same while it is empty: it goes again unless something is written into it.
struct PrivateFile {
    path: PathBuf,
    open: fs::File,
    written: bool,
}

impl PrivateFile {
    fn make(path: &Path) -> anyhow::Result<Self> {
        let open = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("{}: {}", path.display(), why_not_made(path)))?;
        Ok(Self { path: path.to_owned(), open, written: false })
    }

    fn write(mut self, secret: &str) -> anyhow::Result<()> {
        writeln!(self.open, "{secret}")?;
        self.open.sync_all()?;
        self.written = true;
        Ok(())
    }
}

fn why_not_made(path: &Path) -> &'static str {
    if path.exists() {
        "a key is never written over another file: take another name"
    } else {
        "cannot be made"
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
