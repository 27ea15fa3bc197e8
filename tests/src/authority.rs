//! A certificate authority of a test's own, and certificates by it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::result::Result;

/// An authority that exists as long as its folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// Makes one and writes its certificate to `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Causeway local authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("ca.pem"), certificate.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), folder: folder.to_owned() })
    }

    /// The authority's own certificate, to be trusted.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Makes a certificate for `hosts` (names or IP addresses): chain and key files.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}-key.pem")));
        fs::write(&files.0, certificate.pem())?;
        fs::write(&files.1, key.serialize_pem())?;
        Ok(files)
    }
}
