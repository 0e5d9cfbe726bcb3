//! Signature Version 4, as far as these calls need it, to check that what was signed is what is
//! sent. The embedded AWS does not check signatures; the real one refuses what does not match.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::fmt::Write as _;

use crate::calls::Sent;

/// The scope that a request was signed for: `REGION/SERVICE`.
///
/// # Panics
/// If the signature is not that of this very request.
pub(crate) fn verified_scope(sent: &Sent, secret: &str) -> String {
    let authorization = sent.header("authorization");
    let part = |name: &str| {
        let (_, rest) = authorization
            .split_once(&format!("{name}="))
            .unwrap_or_else(|| panic!("{authorization}"));
        rest.split(',').next().unwrap_or_default().to_owned()
    };
    let (credential, signed) = (part("Credential"), part("SignedHeaders"));
    let (_, scope) = credential.split_once('/').expect("a scope");
    let scope_parts: Vec<&str> = scope.split('/').collect();
    let [date, region, service, request] = scope_parts[..] else {
        panic!("{scope}")
    };

    let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            if pair.contains('=') {
                pair.to_owned()
            } else {
                format!("{pair}=")
            }
        })
        .collect();
    pairs.sort();
    let mut canonical = format!("{}\n{path}\n{}\n", sent.method, pairs.join("&"));
    for name in signed.split(';') {
        let _ = writeln!(canonical, "{name}:{}", sent.header(name).trim());
    }
    let _ = write!(canonical, "\n{signed}\n{}", hex(&sha256(&sent.body)));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        sent.header("x-amz-date"),
        hex(&sha256(canonical.as_bytes()))
    );
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), date.as_bytes());
    for step in [region, service, request] {
        key = hmac(&key, step.as_bytes());
    }
    assert_eq!(
        hex(&hmac(&key, to_sign.as_bytes())),
        part("Signature"),
        "the request that is sent is not the one that was signed:\n{canonical}"
    );
    format!("{region}/{service}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = block.map(|byte| byte ^ 0x36).to_vec();
    inner.extend(message);
    let mut outer = block.map(|byte| byte ^ 0x5c).to_vec();
    outer.extend(sha256(&inner));
    sha256(&outer)
}

/// The first 32 bits of the fractional part of `root` of a prime.
fn fraction(prime: u64, root: fn(f64) -> f64) -> u32 {
    // A double has bits enough: at most 3 for the whole part, 32 for this.
    let root = root(prime as f64);
    ((root - root.floor()) * 4_294_967_296.0) as u32
}

/// FIPS 180-4.
fn sha256(message: &[u8]) -> [u8; 32] {
    let primes: Vec<u64> = (2..312_u64)
        .filter(|n| (2..*n).all(|divisor| n % divisor != 0))
        .collect();
    let constants: Vec<u32> = primes.iter().map(|it| fraction(*it, f64::cbrt)).collect();
    assert_eq!(constants.len(), 64);
    let mut state: Vec<u32> = primes[..8]
        .iter()
        .map(|it| fraction(*it, f64::sqrt))
        .collect();

    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words: Vec<u32> = block
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")))
            .collect();
        for index in 16..64 {
            let (a, b) = (words[index - 15], words[index - 2]);
            let small_a = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let small_b = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            let sum = words[index - 16].wrapping_add(small_a);
            words.push(sum.wrapping_add(words[index - 7]).wrapping_add(small_b));
        }
        let mut work = state.clone();
        for (word, constant) in words.iter().zip(&constants) {
            let (a, e) = (work[0], work[4]);
            let choice = (e & work[5]) ^ (!e & work[6]);
            let majority = (a & work[1]) ^ (a & work[2]) ^ (work[1] & work[2]);
            let big_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let big_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let first = [big_e, choice, *constant, *word]
                .into_iter()
                .fold(work[7], u32::wrapping_add);
            work.rotate_right(1);
            work[4] = work[4].wrapping_add(first);
            work[0] = first.wrapping_add(big_a).wrapping_add(majority);
        }
        for (total, part) in state.iter_mut().zip(work) {
            *total = total.wrapping_add(part);
        }
    }
    let mut digest = [0_u8; 32];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[test]
fn sha256_and_hmac_agree_with_the_published_vectors() {
    // FIPS 180-4's own, and RFC 4231, case 2.
    assert_eq!(
        hex(&sha256(b"abc")),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        hex(&sha256(b"")),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(
        hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}
