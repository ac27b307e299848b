//! A cookie that names a client's device: a random number with a signature that only this group's gateways
//! can make. Not for devices that a token names. Called by `mod`.
//!
//! Invariant: a name that is read was handed out here; nothing else counts as a device.

use std::sync::Arc;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::secret::{self, Secret, SecretError};
use http::{HeaderMap, HeaderValue};
use topology::gateway::DeviceCookie;
use topology::units::Place;

use crate::predicate::cookie;

/// Shortest secret, in characters.
const SHORTEST: usize = 32;

/// Why no cookie can be signed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The secret is not there.
    #[error("device-cookie: {source}")]
    Unreadable {
        /// Where it is named.
        place: Place,
        /// Why.
        source: SecretError,
    },
    /// It is too short to be one.
    #[error("device-cookie: each line of the key must have at least 32 characters")]
    Weak {
        /// Where it is named.
        place: Place,
    },
}

impl DeviceError {
    /// Where the secret is named in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Unreadable { place, .. } | Self::Weak { place } => *place,
        }
    }
}

/// Reads and hands out cookies.
#[derive(Debug)]
pub struct Devices {
    name: String,
    /// The first signs.
    keys: Vec<hmac::Key>,
    /// What names are signed with: another group's mean nothing here.
    group: String,
    attributes: String,
    secret: Secret,
}

impl Devices {
    /// Blocking: it reads the secret.
    ///
    /// # Errors
    /// With the place of the reference.
    pub fn new(model: &DeviceCookie, group: &str) -> Result<Self, DeviceError> {
        let place = model.key.place;
        let fault = |source| DeviceError::Unreadable { place, source };
        let secret = secret::read(&model.key.value).map_err(fault)?;
        let lines = secret.as_str().map_err(fault)?.lines().map(str::trim);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        if lines.is_empty() || lines.iter().any(|line| line.len() < SHORTEST) {
            return Err(DeviceError::Weak { place });
        }
        let key = |line: &&str| hmac::Key::new(hmac::HMAC_SHA256, line.as_bytes());
        let age = model.lifetime.as_secs();
        Ok(Self {
            name: model.name.clone(),
            keys: lines.iter().map(key).collect(),
            group: group.to_owned(),
            attributes: format!("; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax"),
            secret,
        })
    }

    /// Whether it signs with the same secrets.
    pub fn is_as(&self, other: &Self) -> bool {
        self.secret.as_bytes() == other.secret.as_bytes()
    }

    /// The device that a request's cookie names. Of several cookies of that name the first counts.
    pub fn read(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        let (device, signature) = cookie(headers, &self.name)?.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signed = self.signed(device);
        let ours = |key: &hmac::Key| hmac::verify(key, signed.as_bytes(), &signature).is_ok();
        self.keys.iter().any(ours).then(|| device.into())
    }

    /// A cookie for a device never seen before.
    pub fn hand_out(&self) -> Option<HeaderValue> {
        let mut device = [0; 16];
        rand::fill(&mut device).ok()?;
        let device = URL_SAFE_NO_PAD.encode(device);
        let signature = hmac::sign(self.keys.first()?, self.signed(&device).as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature);
        let text = format!("{}={device}.{signature}{}", self.name, self.attributes);
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn signed(&self, device: &str) -> String {
        format!("aqueduct device {} {device}", self.group)
    }
}
