//! Certificates of the pair: one root CA, one certificate a node (R-TO-5), and TLS from them.
//!
//! The CA may sign names of the pair's own DNS domain only (a name constraint, RFC 5280 section
//! 4.2.1.10). A certificate is verified against the CA before it is written, so that what
//! [`issue`] leaves behind works. TLS is 1.2 or later, by aws-lc-rs, and trusts that CA alone.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _, verify_server_name},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use time::OffsetDateTime;
use vmsync_config::{
    TlsFiles,
    words::{Fqdn, UnixMillis},
};
use vmsync_core::smtp::Certificate;
use zeroize::Zeroizing;

use crate::keys::{FileError, read_text, write_new, write_secret_file};

#[cfg(test)]
mod tests;

const DAY: Duration = Duration::from_hours(24);
/// How long a root CA is valid: 10 years. rustls takes a trusted root at any date (RFC 5280 section
/// 6.1.1 leaves that open); other software, such as a PBX that mails here, holds it to this.
pub const CA_VALIDITY: Duration = Duration::from_hours(24 * 3652);
/// How long a node's certificate is valid: 2 years.
pub const NODE_VALIDITY: Duration = Duration::from_hours(24 * 730);

/// Names of the CA's files in its folder.
const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// The files of a node's certificate just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Makes aws-lc-rs the process's provider for the libraries that take none explicitly (HTTP, FTP).
/// May be called any number of times.
pub fn install_provider() {
    // Fails only where a provider was installed before, which then is this same one.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Makes a root CA for the nodes of `domain`: `ca.pem` and, mode 0600, `ca.key` in `dir`, which
/// is made where it is missing. Valid for [`CA_VALIDITY`] from `now`.
///
/// # Errors
/// A CA is there already (it is never overwritten: every certificate of the pair hangs on it),
/// `domain` is no DNS domain, or the files can't be written.
pub fn init(dir: &Path, domain: &str, now: UnixMillis) -> Result<(), FileError> {
    let domain = domain.trim_end_matches('.');
    // A domain is whatever can stand behind a node's first label.
    let probe = Fqdn::new(format!("node.{domain}")).map_err(|_| {
        let problem = format!("no CA made: {domain:?} is no DNS domain such as example.com");
        FileError::new(dir, problem)
    })?;
    let domain = probe.as_str().trim_start_matches("node.");
    make_folder(dir)?;
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    if fs::exists(&cert_path).unwrap_or(true) {
        let problem =
            "a CA is there already and is not overwritten: name another folder, or move it away";
        return Err(FileError::new(&cert_path, problem));
    }
    let mut params = params(
        &format!("vmsync root CA of {domain}"),
        CA_VALIDITY,
        now,
        dir,
    )?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let key = KeyPair::generate().map_err(|e| no_certificate(dir, &e))?;
    let cert = params
        .self_signed(&key)
        .map_err(|e| no_certificate(dir, &e))?;
    write_pair(&key_path, &key, &cert_path, &cert)
}

/// Makes a certificate for the node `fqdn`, signed by the CA in `dir`, for both ends of TLS:
/// `FQDN.pem` and, mode 0600, `FQDN.key` in `out`, which is made where it is missing. It also
/// names `extra_ips` (for a pair on one machine). Valid for [`NODE_VALIDITY`] from `now`.
///
/// # Errors
/// The CA can't be read or does not stand for the domain of `fqdn`; one of the files is there
/// already; they can't be written.
pub fn issue(
    dir: &Path,
    fqdn: &str,
    extra_ips: &[IpAddr],
    out: &Path,
    now: UnixMillis,
) -> Result<Issued, FileError> {
    let fqdn =
        Fqdn::new(fqdn).map_err(|e| FileError::new(out, format!("no certificate made: {e}")))?;
    let ca_cert = dir.join(CA_CERT);
    let signer = ca(dir)?;
    let mut params = params(fqdn.as_str(), NODE_VALIDITY, now, out)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let name = fqdn
        .as_str()
        .try_into()
        .map_err(|e| no_certificate(out, &e))?;
    params.subject_alt_names = vec![SanType::DnsName(name)];
    params
        .subject_alt_names
        .extend(extra_ips.iter().copied().map(SanType::IpAddress));
    let key = KeyPair::generate().map_err(|e| no_certificate(out, &e))?;
    let cert = params
        .signed_by(&key, &signer)
        .map_err(|e| no_certificate(out, &e))?;
    verify(&roots(&ca_cert)?, &[cert.der().clone()], &fqdn, now)
        .map_err(|e| FileError::new(&ca_cert, format!("this CA can't sign for {fqdn}: {e}")))?;
    make_folder(out)?;
    let issued = Issued {
        cert: out.join(format!("{fqdn}.pem")),
        key: out.join(format!("{fqdn}.key")),
    };
    write_pair(&issued.key, &key, &issued.cert, &cert)?;
    Ok(issued)
}

/// Whether these files are a working identity of `fqdn` at `now`: the certificate is signed by
/// the CA, valid, and bears the name. What a peer would find out later, said at the start.
///
/// # Errors
/// What is wrong, by file.
pub fn check_identity(files: &TlsFiles, fqdn: &Fqdn, now: UnixMillis) -> Result<(), FileError> {
    let chain = certificates(&files.cert)?;
    verify(&roots(&files.ca)?, &chain, fqdn, now).map_err(|e| {
        let problem = format!(
            "is no certificate of {fqdn} by the CA {}: {e}; make one with `vmsync pki issue`",
            files.ca.display()
        );
        FileError::new(&files.cert, problem)
    })
}

/// TLS for accepting: presents the node's certificate; asks for the client's, which may be
/// missing but, if given, must be the pair's CA's.
///
/// # Errors
/// A file can't be read or used, or key and certificate don't belong together.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, FileError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&files.ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| FileError::new(&files.ca, format!("is of no use as CA: {e}")))?;
    let (chain, key) = (certificates(&files.cert)?, private_key(&files.key)?);
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_client_cert_verifier(verifier))
        .and_then(|builder| builder.with_single_cert(chain, key))
        .map(Arc::new)
        .map_err(|e| mismatch(files, &e))
}

/// Whose certificate a client has presented in a handshake of [`server_config`], which has verified it.
pub fn presented(chain: Option<&[CertificateDer<'_>]>, peer: &Fqdn) -> Certificate {
    let Some(leaf) = chain.and_then(<[_]>::first) else {
        return Certificate::None;
    };
    let names = ParsedCertificate::try_from(leaf)
        .map_err(|e| e.to_string())
        .and_then(|leaf| {
            let name = ServerName::try_from(peer.as_str()).map_err(|e| e.to_string())?;
            Ok(verify_server_name(&leaf, &name))
        });
    match names {
        Ok(Ok(())) => Certificate::Peer,
        Ok(Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        }))) if !presented.is_empty() => Certificate::Other(presented.join(", ")),
        Ok(Err(_)) => Certificate::Other("nobody".to_owned()),
        Err(why) => Certificate::Other(format!("nobody readable ({why})")),
    }
}

/// TLS for connecting: trusts the pair's CA alone, presents the node's certificate.
///
/// # Errors
/// A file can't be read or used, or key and certificate don't belong together.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, FileError> {
    let roots = roots(&files.ca)?;
    let (chain, key) = (certificates(&files.cert)?, private_key(&files.key)?);
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots))
        .and_then(|builder| builder.with_client_auth_cert(chain, key))
        .map(Arc::new)
        .map_err(|e| mismatch(files, &e))
}

/// Given explicitly everywhere, so that no other crate's choice of a default matters.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(ca: &Path) -> Result<Arc<RootCertStore>, FileError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(ca)? {
        roots
            .add(cert)
            .map_err(|e| FileError::new(ca, format!("holds no usable CA certificate: {e}")))?;
    }
    Ok(Arc::new(roots))
}

/// All certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read_text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(FileError::new(path, "holds no certificate in PEM form")),
        Err(e) => Err(FileError::new(path, format!("is broken PEM: {e}"))),
    }
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read_text(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|e| FileError::new(path, format!("holds no private key in PEM form: {e}")))
}

/// Verifies a chain as a client connecting to `fqdn` at `now` would.
fn verify(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    fqdn: &Fqdn,
    now: UnixMillis,
) -> Result<(), String> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
        .build()
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from(fqdn.as_str()).map_err(|e| e.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    let (leaf, between) = chain.split_first().ok_or("there is no certificate")?;
    verifier
        .verify_server_cert(leaf, between, &name, &[], now)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// The CA in `dir`, to sign with.
fn ca(dir: &Path) -> Result<Issuer<'static, KeyPair>, FileError> {
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    let cert = read_text(&cert_path)?;
    let key = read_text(&key_path)?;
    let key = KeyPair::from_pem(&key)
        .map_err(|e| FileError::new(&key_path, format!("holds no private key of a CA: {e}")))?;
    Issuer::from_ca_cert_pem(&cert, key)
        .map_err(|e| FileError::new(&cert_path, format!("holds no CA certificate: {e}")))
}

/// What CA and node certificates have in common. Valid from a day ago, since the other node's
/// clock may be behind.
fn params(
    common_name: &str,
    validity: Duration,
    now: UnixMillis,
    subject: &Path,
) -> Result<CertificateParams, FileError> {
    let start = Duration::from_millis(now.0);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name has 64 characters at most (RFC 5280 appendix A); it is for people only.
    let common_name: String = common_name.chars().take(64).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date(start.saturating_sub(DAY), subject)?;
    params.not_after = date(start + validity, subject)?;
    Ok(params)
}

fn date(since_epoch: Duration, subject: &Path) -> Result<OffsetDateTime, FileError> {
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| FileError::new(subject, "no certificate made: the clock is far off; set it"))
}

fn make_folder(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(dir).map_err(|e| FileError::new(dir, format!("can't be made: {e}")))
}

/// Writes both or neither.
fn write_pair(
    key_path: &Path,
    key: &KeyPair,
    cert_path: &Path,
    cert: &rcgen::Certificate,
) -> Result<(), FileError> {
    let pem = Zeroizing::new(key.serialize_pem());
    write_secret_file(key_path, pem.as_bytes())?;
    write_new(cert_path, cert.pem().as_bytes(), 0o644).inspect_err(|_| {
        // Made a moment ago, and of use to nobody without its certificate.
        let _ = fs::remove_file(key_path);
    })
}

fn no_certificate(subject: &Path, error: &dyn std::fmt::Display) -> FileError {
    FileError::new(subject, format!("no certificate made: {error}"))
}

fn mismatch(files: &TlsFiles, error: &rustls::Error) -> FileError {
    let problem = format!(
        "can't be used with the key {}: {error}; use the two files that `vmsync pki issue` made together",
        files.key.display()
    );
    FileError::new(&files.cert, problem)
}
