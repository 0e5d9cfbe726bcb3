//! The fuzzer's bodies as plain tests: the corpus, the samples of the other tests, and some
//! thousands of inputs made from those.
//!
//! The fuzzer itself: `cargo fuzz run --fuzz-dir tests/fuzz TARGET`.

use std::path::Path;

use fastrand::Rng;

#[path = "../fuzz/bodies.rs"]
mod bodies;

/// Inputs made from each sample.
const MUTANTS: usize = 400;

#[test]
fn events() {
    let samples = ["tests/events", "tests/fuzz/corpus/event"];
    run("event", &samples, bodies::event);
}

#[test]
fn configurations() {
    run(
        "configuration",
        &["tests/fuzz/corpus/configuration"],
        bodies::configuration,
    );
}

#[test]
fn edits() {
    let samples = ["tests/configurations", "tests/fuzz/corpus/edit"];
    run("edit", &samples, bodies::edit);
}

#[test]
fn targets() {
    run("targets", &["tests/fuzz/corpus/targets"], bodies::targets);
}

/// Runs a body on every file of the directories, and on what becomes of them.
fn run(name: &str, directories: &[&str], body: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dictionary = root.join(format!("tests/fuzz/dictionaries/{name}.txt"));
    let words = words(&std::fs::read_to_string(dictionary).unwrap());
    let mut rng = Rng::with_seed(7);
    let mut samples = 0;
    for directory in directories {
        for file in std::fs::read_dir(root.join(directory)).unwrap() {
            let sample = std::fs::read(file.unwrap().path()).unwrap();
            samples += 1;
            body(&sample);
            for _ in 0..MUTANTS {
                let mutant = mutated(&sample, &words, &mut rng);
                // Known only if the body panics.
                eprintln!("{}", mutant.escape_ascii());
                body(&mutant);
            }
        }
    }
    assert!(samples >= 2, "there is nothing to begin with");
}

/// One to four cuts, copies, words or single bytes.
fn mutated(sample: &[u8], words: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut mutant = sample.to_vec();
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(0..=mutant.len());
        let length = rng.usize(0..=(mutant.len() - at).min(40));
        let piece: Vec<u8> = match rng.u8(0..4) {
            0 => Vec::new(),
            1 => vec![rng.u8(..)],
            2 => words[rng.usize(..words.len())].clone(),
            _ => {
                let from = rng.usize(0..=mutant.len());
                let to = (from + rng.usize(0..80)).min(mutant.len());
                mutant[from..to].to_vec()
            }
        };
        let length = if rng.bool() { length } else { 0 };
        mutant.splice(at..at + length, piece);
    }
    mutant
}

/// The words of a dictionary of libFuzzer's form: one a line, quoted, with escapes.
fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let unescaped = |word: &str| {
        let mut bytes = Vec::new();
        let mut rest = word.as_bytes();
        while let [first, others @ ..] = rest {
            rest = match (first, others) {
                (b'\\', [b'x', high, low, after @ ..]) => {
                    let code = [*high, *low];
                    let code = std::str::from_utf8(&code).unwrap();
                    bytes.push(u8::from_str_radix(code, 16).unwrap());
                    after
                }
                (b'\\', [escaped, after @ ..]) => {
                    bytes.push(*escaped);
                    after
                }
                _ => {
                    bytes.push(*first);
                    others
                }
            };
        }
        bytes
    };
    let lines = dictionary.lines();
    lines
        .map(|line| unescaped(line.trim_matches('"')))
        .collect()
}
