//! Whether two patterns can match one and the same pipeline.
//!
//! Exact, not heuristic: the two patterns of a component are walked in step as automata, and the
//! shortest text that takes both to their ends is the example shown to the user.

use std::collections::VecDeque;

use super::MAX_NAME;
use super::pattern::{Glob, Match, Piece, PipelinePattern, Shape};

/// A pipeline that both patterns match: its name, or its ARN where a pattern looks at that.
pub(super) fn example(a: &PipelinePattern, b: &PipelinePattern) -> Option<String> {
    let home = a.home().or(b.home());
    match (&a.shape, &b.shape) {
        (Shape::Name(a), Shape::Name(b)) => name(a, b),
        // A name's pattern matches in every partition and region of one account. While nobody knows which
        // that is, it may be any.
        (Shape::Name(other), Shape::Arn(arn)) | (Shape::Arn(arn), Shape::Name(other)) => {
            let name = name(&arn.name, other)?;
            let partition = whole(&arn.partition, &arn.partition, "aws")?;
            let region = whole(&arn.region, &arn.region, "us-east-1")?;
            let account = match home {
                Some(home) if arn.account.matches(home) == Match::No => return None,
                Some(home) => home.to_owned(),
                None => whole(&arn.account, &arn.account, "123456789012")?,
            };
            Some(format!(
                "arn:{partition}:codepipeline:{region}:{account}:{name}"
            ))
        }
        (Shape::Arn(a), Shape::Arn(b)) => {
            let name = name(&a.name, &b.name)?;
            let partition = whole(&a.partition, &b.partition, "aws")?;
            let region = whole(&a.region, &b.region, "us-east-1")?;
            let account = whole(&a.account, &b.account, "123456789012")?;
            Some(format!(
                "arn:{partition}:codepipeline:{region}:{account}:{name}"
            ))
        }
    }
}

fn name(a: &Glob, b: &Glob) -> Option<String> {
    shortest_common(a, b).filter(|name| name.len() <= MAX_NAME)
}

/// The common text of two components; `usual` where both leave it open altogether.
fn whole(a: &Glob, b: &Glob, usual: &str) -> Option<String> {
    if a.is_capture() && b.is_capture() {
        Some(usual.to_owned())
    } else {
        shortest_common(a, b)
    }
}

/// One step of a pattern's automaton.
#[derive(Clone, Copy)]
enum Step {
    /// Takes this byte.
    Byte(u8),
    /// Takes any byte: the first of a capture.
    Any,
    /// Takes any byte and stays, or takes nothing and goes on: the rest of a capture.
    Star,
}

impl Step {
    /// A byte that both steps take.
    fn common(self, other: Self) -> Option<u8> {
        match (self, other) {
            (Self::Byte(a), Self::Byte(b)) => (a == b).then_some(a),
            (Self::Byte(byte), _) | (_, Self::Byte(byte)) => Some(byte),
            // Fits every component that may hold a capture.
            _ => Some(b'x'),
        }
    }

    fn after(self, at: usize) -> usize {
        match self {
            Self::Star => at,
            Self::Byte(_) | Self::Any => at + 1,
        }
    }
}

fn steps(glob: &Glob) -> Vec<Step> {
    let mut steps = Vec::new();
    for piece in &glob.0 {
        match piece {
            Piece::Literal(text) => steps.extend(text.bytes().map(Step::Byte)),
            Piece::Capture(_) => steps.extend([Step::Any, Step::Star]),
        }
    }
    steps
}

/// The shortest text that both match: a breadth-first search over pairs of positions, in which
/// taking a byte costs one and leaving a star costs nothing.
pub(super) fn shortest_common(a: &Glob, b: &Glob) -> Option<String> {
    // Of most pairs at least one is a literal, and nothing needs to be searched.
    match (a.literal(), b.literal()) {
        (Some(text), Some(other)) => return (text == other).then(|| text.to_owned()),
        (Some(text), None) => return (b.matches(text) != Match::No).then(|| text.to_owned()),
        (None, Some(text)) => return (a.matches(text) != Match::No).then(|| text.to_owned()),
        (None, None) => {}
    }
    let (a, b) = (steps(a), steps(b));
    let index = |i: usize, j: usize| i * (b.len() + 1) + j;
    // How each pair was reached first: from which pair, by which byte.
    let mut reached: Vec<Option<(usize, Option<u8>)>> = vec![None; (a.len() + 1) * (b.len() + 1)];
    let mut queue = VecDeque::from([(0, 0, index(0, 0), None)]);
    while let Some((i, j, from, byte)) = queue.pop_front() {
        let here = index(i, j);
        if reached[here].is_some() {
            continue;
        }
        reached[here] = Some((from, byte));
        if (i, j) == (a.len(), b.len()) {
            return Some(trace(&reached, here));
        }
        let (left, right) = (a.get(i).copied(), b.get(j).copied());
        if let (Some(left), Some(right)) = (left, right)
            && let Some(byte) = left.common(right)
        {
            queue.push_back((left.after(i), right.after(j), here, Some(byte)));
        }
        if let Some(Step::Star) = left {
            queue.push_front((i + 1, j, here, None));
        }
        if let Some(Step::Star) = right {
            queue.push_front((i, j + 1, here, None));
        }
    }
    None
}

fn trace(reached: &[Option<(usize, Option<u8>)>], end: usize) -> String {
    let mut bytes = Vec::new();
    let mut at = end;
    while let Some((from, byte)) = reached[at]
        && from != at
    {
        bytes.extend(byte);
        at = from;
    }
    bytes.iter().rev().map(|&byte| char::from(byte)).collect()
}
