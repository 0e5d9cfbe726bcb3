//! Patterns of pipelines, and what their captures take.
//!
//! A pattern is literal text with captures in braces: `{service}-frontend-pipeline`. A capture
//! takes one or more of the characters that a pipeline's name may have, so in an ARN it never
//! reaches beyond its own component.

use super::{MAX_NAME, is_name_byte};
use crate::domain::arn::{self, Arn, PipelineArn};

/// A pipeline's name or ARN, or a pattern of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PipelinePattern {
    written: String,
    captures: Vec<String>,
    pub(super) shape: Shape,
    /// The account that a bare name is of, while it is known.
    home: Option<String>,
}

/// What a pattern is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The name alone, in any partition and region of the queue's own account.
    Name(Glob),
    /// Every component of the ARN that is not fixed.
    Arn(Box<ArnGlobs>),
}

/// The components of an ARN's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArnGlobs {
    pub(super) partition: Glob,
    pub(super) region: Glob,
    pub(super) account: Glob,
    pub(super) name: Glob,
}

/// Literal text and captures, never two captures in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(pub(super) Vec<Piece>);

/// A piece of a pattern or of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Capture(String),
}

/// Whether and how a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    No,
    /// In exactly one way; each capture's name with what it took.
    Yes(Captured),
    /// In more than one way.
    Ambiguous,
}

/// Each capture's name with what it took.
pub(super) type Captured = Vec<(String, String)>;

/// Why a text is no pattern of pipelines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// A brace without its partner, or braces within braces.
    #[error("has unbalanced braces; a capture is written {{name}}")]
    Unbalanced,
    /// A capture's name is not an identifier.
    #[error(
        "has a capture {{{0}}}; its name must be letters, digits and _, and begin with a letter"
    )]
    CaptureName(String),
    /// Nothing separates two captures, so nobody can say where one ends.
    #[error("has {{{0}}} right beside {{{1}}}; literal text must separate captures")]
    Adjacent(String, String),
    /// A capture's name is used twice.
    #[error("uses the capture {{{0}}} twice; each needs a name of its own")]
    Duplicate(String),
    /// A character that the name of a pipeline cannot have.
    #[error("contains {0:?}; a pipeline's name has letters, digits and . @ - _ only")]
    Character(char),
    /// No pipeline has so long a name.
    #[error("is longer than the {MAX_NAME} characters that a pipeline's name may have")]
    TooLong,
    /// It begins as an ARN, but is none of a pipeline.
    #[error("is not of the form arn:PARTITION:codepipeline:REGION:ACCOUNT:NAME")]
    ArnForm,
    /// A literal partition that is none, or one with a capture as a part of it.
    #[error("has the partition {0:?}; write one such as aws, or a capture alone")]
    Partition(String),
    /// A literal part of a region that no region has.
    #[error("has the region {0:?}; a region has lower-case letters, digits and - only")]
    Region(String),
    /// A literal account that is none, or one with a capture as a part of it.
    #[error("has the account {0:?}; write twelve digits, or a capture alone")]
    Account(String),
}

impl PipelinePattern {
    /// Reads a pattern; `home` is the account that a bare name is of, where known.
    pub(super) fn parse(written: &str, home: Option<&str>) -> Result<Self, PatternError> {
        let shape = if written.starts_with("arn:") {
            Shape::Arn(Box::new(ArnGlobs::parse(written)?))
        } else {
            Shape::Name(Glob::name(written)?)
        };
        let mut captures: Vec<String> = Vec::new();
        for name in shape.globs().into_iter().flat_map(Glob::captures) {
            if captures.iter().any(|earlier| earlier == name) {
                return Err(PatternError::Duplicate(name.to_owned()));
            }
            captures.push(name.to_owned());
        }
        Ok(Self {
            written: written.to_owned(),
            captures,
            shape,
            home: home.map(str::to_owned),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    pub(super) fn captures(&self) -> &[String] {
        &self.captures
    }

    /// The pattern of the pipeline's name.
    pub(super) fn name(&self) -> &Glob {
        match &self.shape {
            Shape::Name(name) => name,
            Shape::Arn(globs) => &globs.name,
        }
    }

    /// The same for one pipeline, of whatever name.
    pub(super) fn of_any_name(&self) -> Self {
        let name = Glob(vec![Piece::Literal("any".to_owned())]);
        let mut pattern = self.clone();
        match &mut pattern.shape {
            Shape::Name(glob) => *glob = name,
            Shape::Arn(globs) => globs.name = name,
        }
        pattern
    }

    /// The one account that it matches in, where known.
    pub(super) fn account(&self) -> Option<&str> {
        match &self.shape {
            Shape::Name(_) => self.home(),
            Shape::Arn(globs) => globs.account.literal(),
        }
    }

    /// Whether it matches in whatever account.
    pub(super) fn takes_any_account(&self) -> bool {
        match &self.shape {
            Shape::Name(_) => false,
            Shape::Arn(globs) => globs.account.is_capture(),
        }
    }

    /// The account that a bare name is of, while it is known.
    pub(super) fn home(&self) -> Option<&str> {
        self.home.as_deref()
    }

    /// From now on, that account is known.
    pub(super) fn set_home(&mut self, account: &str) {
        self.home = Some(account.to_owned());
    }

    /// Whether what stands for `capture` is always the account of the event.
    pub(super) fn is_account(&self, capture: &str) -> bool {
        if !self.captures.iter().any(|it| it == capture) {
            return capture == "account";
        }
        match &self.shape {
            Shape::Name(_) => false,
            Shape::Arn(globs) => globs.account.captures().any(|it| it == capture),
        }
    }

    pub(super) fn matches(&self, pipeline: &PipelineArn) -> Match {
        if matches!(self.shape, Shape::Name(_)) && self.home() != Some(&pipeline.account) {
            return Match::No;
        }
        let components: Vec<(&Glob, &str)> = match &self.shape {
            Shape::Name(name) => vec![(name, &pipeline.name)],
            Shape::Arn(globs) => vec![
                (&globs.partition, &pipeline.partition),
                (&globs.region, &pipeline.region),
                (&globs.account, &pipeline.account),
                (&globs.name, &pipeline.name),
            ],
        };
        let mut captured = Vec::new();
        let mut ambiguous = false;
        for (glob, text) in components {
            match glob.matches(text) {
                // A later component may still say no: ambiguity is decided last.
                Match::No => return Match::No,
                Match::Ambiguous => ambiguous = true,
                Match::Yes(more) => captured.extend(more),
            }
        }
        if ambiguous {
            Match::Ambiguous
        } else {
            Match::Yes(captured)
        }
    }
}

impl Shape {
    fn globs(&self) -> Vec<&Glob> {
        match self {
            Self::Name(name) => vec![name],
            Self::Arn(globs) => vec![&globs.partition, &globs.region, &globs.account, &globs.name],
        }
    }
}

impl ArnGlobs {
    fn parse(written: &str) -> Result<Self, PatternError> {
        let Arn {
            partition,
            service,
            region,
            account,
            resource: name,
        } = Arn::parse(written).ok_or(PatternError::ArnForm)?;
        if service != "codepipeline" || name.is_empty() || name.contains(':') {
            return Err(PatternError::ArnForm);
        }
        let globs = Self {
            partition: Glob::parse(partition)?,
            region: Glob::parse(region)?,
            account: Glob::parse(account)?,
            name: Glob::name(name)?,
        };
        if !globs.partition.is_capture() && !arn::is_partition(partition) {
            return Err(PatternError::Partition(partition.to_owned()));
        }
        if !globs.account.is_capture() && !arn::is_account(account) {
            return Err(PatternError::Account(account.to_owned()));
        }
        let mut literals = globs.region.literals();
        if region.is_empty() || !literals.all(|text| text.bytes().all(arn::is_region_byte)) {
            return Err(PatternError::Region(region.to_owned()));
        }
        drop(literals);
        Ok(globs)
    }
}

impl Glob {
    /// The pattern of a pipeline's name.
    fn name(written: &str) -> Result<Self, PatternError> {
        if written.is_empty() {
            return Err(PatternError::Empty);
        }
        let glob = Self::parse(written)?;
        if let Some(c) = glob
            .literals()
            .flat_map(str::chars)
            .find(|&c| !u8::try_from(c).is_ok_and(is_name_byte))
        {
            return Err(PatternError::Character(c));
        }
        let shortest: usize = glob.0.iter().map(Piece::shortest).sum();
        if shortest > MAX_NAME {
            return Err(PatternError::TooLong);
        }
        Ok(glob)
    }

    fn parse(written: &str) -> Result<Self, PatternError> {
        let pieces = pieces(written)?;
        for pair in pieces.windows(2) {
            if let [Piece::Capture(first), Piece::Capture(second)] = pair {
                return Err(PatternError::Adjacent(first.clone(), second.clone()));
            }
        }
        Ok(Self(pieces))
    }

    /// Whether this is one capture and nothing else.
    pub(super) fn is_capture(&self) -> bool {
        matches!(self.0[..], [Piece::Capture(_)])
    }

    /// The one text that this matches, if it has no capture.
    pub(super) fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with these values for its captures, if there is one for each.
    pub(super) fn filled(&self, values: &Captured) -> Option<String> {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => Some(text.clone()),
            Piece::Capture(name) => value_of(values, name).map(str::to_owned),
        };
        self.0.iter().map(piece).collect()
    }

    pub(super) fn captures(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Capture(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Capture(_) => None,
        })
    }

    /// Counts the ways to share `text` out among the pieces (one, or more than one) from the end
    /// backwards, then follows the only way if there is just one. Linear in pieces × text.
    pub(super) fn matches(&self, text: &str) -> Match {
        let bytes = text.as_bytes();
        let (pieces, end) = (self.0.len(), bytes.len());
        // ways[i][j]: in how many ways the pieces from i on match the text from j on; 2 is "many".
        let mut ways = vec![vec![0_u8; end + 1]; pieces + 1];
        ways[pieces][end] = 1;
        for (i, piece) in self.0.iter().enumerate().rev() {
            for j in (0..=end).rev() {
                ways[i][j] = match piece {
                    Piece::Literal(literal) if bytes[j..].starts_with(literal.as_bytes()) => {
                        ways[i + 1][j + literal.len()]
                    }
                    // The capture takes this byte and ends, or takes it and goes on.
                    Piece::Capture(_) if j < end && is_name_byte(bytes[j]) => {
                        (ways[i + 1][j + 1] + ways[i][j + 1]).min(2)
                    }
                    Piece::Literal(_) | Piece::Capture(_) => 0,
                };
            }
        }
        match ways[0][0] {
            0 => return Match::No,
            1 => {}
            _ => return Match::Ambiguous,
        }

        let mut captured = Vec::new();
        let mut at = 0;
        for (i, piece) in self.0.iter().enumerate() {
            match piece {
                Piece::Literal(literal) => at += literal.len(),
                Piece::Capture(name) => {
                    let start = at;
                    at += 1;
                    while ways[i + 1][at] == 0 {
                        at += 1;
                    }
                    captured.push((name.clone(), text[start..at].to_owned()));
                }
            }
        }
        Match::Yes(captured)
    }
}

impl Piece {
    /// The number of characters it takes at least.
    fn shortest(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Capture(_) => 1,
        }
    }
}

/// What stands for a name, if something does.
pub(super) fn value_of<'a>(values: &'a Captured, name: &str) -> Option<&'a str> {
    let found = values.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// Splits a pattern or a template into literals and captures.
pub(super) fn pieces(written: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces = Vec::new();
    let mut rest = written;
    while let Some(brace) = rest.find(['{', '}']) {
        let (literal, from_brace) = rest.split_at(brace);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        let inside = from_brace
            .strip_prefix('{')
            .ok_or(PatternError::Unbalanced)?;
        let (name, after) = inside.split_once('}').ok_or(PatternError::Unbalanced)?;
        if name.contains('{') {
            return Err(PatternError::Unbalanced);
        }
        let identifier = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !identifier {
            return Err(PatternError::CaptureName(name.to_owned()));
        }
        pieces.push(Piece::Capture(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}
