//! Certificates for tests, made in memory. The end-to-end scenarios use this file too.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]
#![allow(dead_code, reason = "each of its users needs another part")]

use graviola::hashing::Sha256;
use graviola::signing::ecdsa::{P256, SigningKey as EcdsaKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};

struct Key {
    key: EcdsaKey<P256>,
    public: Vec<u8>,
}

impl Key {
    fn new() -> Self {
        let key = EcdsaKey::<P256>::generate().unwrap();
        let mut info = [0; 256];
        // The point itself is what the structure ends with.
        let info = key.to_spki_der(&mut info).unwrap();
        let public = info[info.len() - 65..].to_vec();
        Self { key, public }
    }

    fn pkcs8(&self) -> Vec<u8> {
        let mut der = [0; 512];
        self.key.to_pkcs8_der(&mut der).unwrap().to_vec()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut signature = [0; 128];
        let signature = self.key.sign_asn1::<Sha256>(&[message], &mut signature);
        Ok(signature
            .map_err(|_| rcgen::Error::RemoteKeyError)?
            .to_vec())
    }
}

fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..u64::MAX / 2)));
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3, 4]);
    params
}

/// An authority that signs certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, Key>,
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
}

/// A certificate with its key.
pub(super) struct Identity {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    pub(super) certificate_der: Vec<u8>,
    /// PKCS#8.
    pub(super) key_der: Vec<u8>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = params(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = Key::new();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn sign(&self, names: &[&str]) -> Identity {
        let mut params = params(names, "somebody");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = Key::new();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = key.pkcs8();
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: pem("PRIVATE KEY", &der),
            certificate_der: certificate.der().to_vec(),
            key_der: der,
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
