//! Identifiers that look like AWS's own and follow from the seed.

use md5::{Digest, Md5};

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The one source of randomness behind a world's identifiers.
#[derive(Debug)]
pub(crate) struct Ids(fastrand::Rng);

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn draw(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length)
            .map(|_| char::from(alphabet[self.0.usize(..alphabet.len())]))
            .collect()
    }

    /// A distribution's id or an ETag: `E` and thirteen capitals or digits.
    pub(crate) fn e_id(&mut self) -> String {
        format!("E{}", self.draw(UPPER, 13))
    }

    /// A distribution's domain name, `d` and thirteen letters or digits under `cloudfront.net`.
    pub(crate) fn domain(&mut self) -> String {
        format!("d{}.cloudfront.net", self.draw(LOWER, 13))
    }

    /// A random UUID (version 4).
    pub(crate) fn uuid(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.0.u128(..).to_be_bytes())
            .into_uuid()
            .to_string()
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.0.u32(..)
    }

    /// A duration between zero and `most`.
    pub(crate) fn up_to(&mut self, most: std::time::Duration) -> std::time::Duration {
        most.mul_f64(self.0.f64())
    }
}

/// Lower-case hexadecimal MD5, as SQS reports it for a message's body.
pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// FNV-1a over several parts: a small hash that is the same on every machine and version.
pub(crate) fn stable_hash(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| {
        part.iter().chain(&[0xff]).fold(hash, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    })
}
