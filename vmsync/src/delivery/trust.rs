//! TLS towards mail servers outside the pair: with a verified certificate, or with any.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use vmsync_config::{Config, Sender, SenderTls};

use crate::{keys::FileError, pki, smtp::submission::Tls};

/// The TLS of mail servers, made once for all entries.
pub(crate) struct Trust {
    verified: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
}

impl Trust {
    /// Trusts the machine's roots, and the pair's `ca` where there is one.
    pub(crate) fn load(ca: Option<&Path>) -> Result<Self, FileError> {
        let roots = roots(ca.into_iter())?;
        let unusable = |e: &Error| {
            let subject = ca.unwrap_or(Path::new("TLS"));
            FileError::new(subject, format!("no TLS for mail servers: {e}"))
        };
        let builder = || {
            ClientConfig::builder_with_provider(pki::provider())
                .with_safe_default_protocol_versions()
                .map_err(|e| unusable(&e))
        };
        let verified = builder()?.with_root_certificates(roots);
        let any = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(pki::provider())));
        Ok(Self {
            verified: Arc::new(verified.with_no_client_auth()),
            any: Arc::new(any.with_no_client_auth()),
        })
    }

    /// What `entry` asks for.
    pub(crate) fn of(&self, entry: &Sender) -> Tls {
        match entry.tls {
            SenderTls::Opportunistic => Tls::Opportunistic(Arc::clone(&self.any)),
            SenderTls::Required => Tls::Required(Arc::clone(&self.verified)),
            SenderTls::Implicit => Tls::Implicit(Arc::clone(&self.verified)),
        }
    }
}

/// The machine's roots, and those of `files`.
fn roots<'p>(files: impl Iterator<Item = &'p Path>) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "a root certificate of this machine is left out");
    }
    roots.add_parsable_certificates(native.certs);
    for file in files {
        roots.add_parsable_certificates(pki::certificates(file)?);
    }
    Ok(roots)
}

/// TLS towards servers that are no mail servers: verified by the machine's roots, the pair's CA and `ca`. With
/// `identity` the node shows its own certificate to who asks for one.
pub(crate) fn client_tls(
    config: &Config,
    ca: Option<&Path>,
    identity: bool,
) -> Result<Arc<ClientConfig>, FileError> {
    let files = config.tls.files.as_ref();
    let roots = roots(files.map(|f| f.ca.as_path()).into_iter().chain(ca))?;
    let unusable =
        |e: &Error| FileError::new(ca.unwrap_or(Path::new("TLS")), format!("no TLS: {e}"));
    let builder = ClientConfig::builder_with_provider(pki::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots);
    let mut made = match files.filter(|_| identity) {
        Some(files) => {
            let (chain, key) = (
                pki::certificates(&files.cert)?,
                pki::private_key(&files.key)?,
            );
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| unusable(&e))?
        }
        None => builder.with_no_client_auth(),
    };
    // rsyslog with OpenSSL answers a resumed session with the alert internal_error where it asks for certificates
    // (its sessions have no id context). Alarms are rare enough for a whole handshake each.
    made.resumption = Resumption::disabled();
    Ok(Arc::new(made))
}

/// Takes any certificate, for servers to which a mail would otherwise go in clear text (RFC 7435):
/// who could forge a certificate could as well hide that STARTTLS is offered.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
