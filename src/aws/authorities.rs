//! The authorities that certificates are checked against: the machine's own, or a file of the user's.

use std::fmt;
use std::path::PathBuf;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::settings::{Misconfigured, Said};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Where the authorities' certificates are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Source);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Source {
    /// The machine's own.
    #[default]
    Machine,
    /// The machine's own, in the directory that `SSL_CERT_DIR` names.
    Directory(Said),
    /// The file that `SSL_CERT_FILE` names stands for the machine's own.
    Machines(PathBuf, String),
    /// The file that `AWS_CA_BUNDLE` or the profile names, in place of the machine's own.
    Bundle(PathBuf, String),
}

impl fmt::Display for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Machine => f.write_str("the machine's own"),
            Source::Directory(said) => write!(f, "{said}"),
            Source::Machines(path, from) | Source::Bundle(path, from) => {
                write!(f, "{} ({from})", path.display())
            }
        }
    }
}

impl Authorities {
    pub(super) fn bundle(path: PathBuf, from: String) -> Self {
        Self(Source::Bundle(path, from))
    }

    pub(super) fn file_of_the_machine(path: PathBuf, from: String) -> Self {
        Self(Source::Machines(path, from))
    }

    pub(super) fn machine(directory: Option<Said>) -> Self {
        Self(directory.map_or(Source::Machine, Source::Directory))
    }

    /// Reads them.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no certificate of an authority.
    pub(super) fn load(&self) -> Result<TlsContext, Misconfigured> {
        let (path, from) = match &self.0 {
            Source::Machine | Source::Directory(_) => return Ok(TlsContext::default()),
            Source::Machines(path, from) | Source::Bundle(path, from) => (path, from),
        };
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Misconfigured(format!(
                "{from} names {shown}, which cannot be read: {error}"
            ))
        })?;
        let certificates: Vec<&str> = certificates(&text).filter(|it| is_usable(it)).collect();
        if certificates.is_empty() {
            return Err(Misconfigured(format!(
                "{from} names {shown}, which holds no certificate of an authority: expected the text \
                 form (PEM), which begins with {BEGIN}"
            )));
        }
        // The SDK reads the file of SSL_CERT_FILE by itself.
        if matches!(self.0, Source::Machines(..)) {
            return Ok(TlsContext::default());
        }
        let store = TrustStore::empty();
        let store = certificates.into_iter().fold(store, |store, certificate| {
            store.with_pem_certificate(certificate)
        });
        TlsContext::builder()
            .with_trust_store(store)
            .build()
            .map_err(|error| Misconfigured(format!("{from} names {shown}: {error}")))
    }
}

fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(BEGIN).filter_map(|(start, _)| {
        let rest = &text[start..];
        rest.find(END).map(|end| &rest[..end + END.len()])
    })
}

/// The SDK panics on a certificate that cannot be one of an authority.
fn is_usable(certificate: &str) -> bool {
    CertificateDer::from_pem_slice(certificate.as_bytes())
        .is_ok_and(|der| RootCertStore::empty().add(der).is_ok())
}
