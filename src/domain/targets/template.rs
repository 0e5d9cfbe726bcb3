//! Templates over what is known of a pipeline: its pattern's captures, its account, its region.

use super::access::{ExternalIdError, RegionError, RoleArnError};
use super::is_name_byte;
use super::pattern::{Glob, Match, PatternError, Piece, PipelinePattern, pieces};

/// The largest number of characters in a parameter's name (Systems Manager API reference:
/// `PutParameter`).
const MAX_PARAMETER_NAME: usize = 1011;

/// The largest number of levels in a parameter's path (the same source).
const MAX_LEVELS: usize = 15;

/// What a template may use besides the captures of its pattern: the event's own account and region.
/// A capture of the same name comes first.
pub(super) const OF_THE_EVENT: [&str; 2] = ["account", "region"];

/// A text with captures in it: `/{service}/cloudfront/cfcd-staging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

/// Each name that a template may use, with its value.
pub(super) type Values = Vec<(String, String)>;

/// Why a text is no template of what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The captures in it are not well formed.
    #[error(transparent)]
    Syntax(PatternError),
    /// It uses a capture that the pipeline's pattern does not have.
    #[error("uses the capture {{{capture}}}, which `pipeline` does not have ({})", list(.known))]
    UnknownCapture {
        /// The capture that nothing fills.
        capture: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Whatever the captures take, it is no parameter's name.
    #[error(transparent)]
    Name(#[from] ParameterNameError),
    /// Whatever the captures take, it is no role's ARN.
    #[error(transparent)]
    RoleArn(#[from] RoleArnError),
    /// Whatever the captures take, it is no external id.
    #[error(transparent)]
    ExternalId(#[from] ExternalIdError),
    /// Whatever the captures take, it is no region.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// Why a text cannot be the name of a parameter.
///
/// The rules are those of `PutParameter` in the Systems Manager API reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterNameError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// A character that Systems Manager does not allow.
    #[error("contains {0:?}; a parameter's name has letters, digits and _ . - / only")]
    Character(char),
    /// An ARN: a parameter that another account shares.
    #[error(
        "is an ARN: a parameter that another account shares can be read and not written; name the parameter in its own \
         account, and a role of that account in role_arn"
    )]
    Arn,
    /// A path that does not begin with a slash.
    #[error("is a path and must begin with /")]
    Relative,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty level: // or a / at the end")]
    EmptyLevel,
    /// A path of more levels than Systems Manager allows.
    #[error("has more than {MAX_LEVELS} levels")]
    TooDeep,
    /// A longer name than Systems Manager allows.
    #[error("is longer than {MAX_PARAMETER_NAME} characters")]
    TooLong,
    /// Both parameters come to the same name.
    #[error("both parameters come to {0:?}; they must name different distributions")]
    Same(String),
}

impl Template {
    /// Reads a template of something that `check` accepts, whatever the captures take. Without
    /// `pattern` (it is faulty), it is not checked which captures the template uses.
    pub(super) fn parse<E: Into<TemplateError>>(
        written: &str,
        pattern: Option<&PipelinePattern>,
        check: impl Fn(&str) -> Result<(), E>,
    ) -> Result<Self, TemplateError> {
        let template = Self::parse_with(written, pattern, &OF_THE_EVENT)?;
        // A capture takes at least one character of a name's, so any letter stands for it; an
        // account is always twelve digits.
        let is_account = |capture: &str| pattern.is_none_or(|pattern| pattern.is_account(capture));
        let sample = template.fill(|capture| {
            if is_account(capture) {
                "123456789012"
            } else {
                "x"
            }
        });
        check(&sample).map_err(Into::into)?;
        Ok(template)
    }

    /// Reads a template of any text. Without `pattern` (it is faulty), it is not checked which captures
    /// it uses: those of the pattern, and `others`.
    pub(super) fn parse_with(
        written: &str,
        pattern: Option<&PipelinePattern>,
        others: &[&str],
    ) -> Result<Self, TemplateError> {
        let template = Self(pieces(written).map_err(TemplateError::Syntax)?);
        let Some(pattern) = pattern else {
            return Ok(template);
        };
        let captures = pattern.captures();
        let is_capture = |name: &str| captures.iter().any(|it| it == name);
        let unknown = template
            .captures()
            .find(|&used| !others.contains(&used) && !is_capture(used));
        let Some(capture) = unknown else {
            return Ok(template);
        };
        let others = others.iter().copied().filter(|name| !is_capture(name));
        Err(TemplateError::UnknownCapture {
            capture: capture.to_owned(),
            known: captures
                .iter()
                .map(String::as_str)
                .chain(others)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The template with the captures filled in that `values` has.
    pub(super) fn fill_in(&self, values: &Values) -> Self {
        let piece = |piece: &Piece| match piece {
            Piece::Capture(name) => values
                .iter()
                .find(|(known, _)| known == name)
                .map_or_else(|| piece.clone(), |(_, value)| Piece::Literal(value.clone())),
            Piece::Literal(_) => piece.clone(),
        };
        Self(self.0.iter().map(piece).collect())
    }

    /// Its literals and captures.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether some captures render this name. A capture that is used twice may stand for two
    /// different texts here: the answer errs on the side of yes.
    pub(super) fn may_render(&self, name: &str) -> bool {
        renders(&self.0, name)
    }

    /// What the captures took in a name of this form; `None` if it is none, or can be read in more than
    /// one way.
    pub(super) fn captured(&self, name: &str) -> Option<Values> {
        match Glob(self.0.clone()).matches(name) {
            Match::Yes(values) => Some(values),
            Match::No | Match::Ambiguous => None,
        }
    }

    /// Fills the captures in, and checks the result.
    pub(super) fn render<E>(
        &self,
        values: &Values,
        check: impl Fn(&str) -> Result<(), E>,
    ) -> Result<String, E> {
        let text = self.fill(|capture| {
            values
                .iter()
                .find(|(name, _)| name == capture)
                .map_or("", |(_, value)| value)
        });
        check(&text)?;
        Ok(text)
    }

    /// Whether what it renders begins with what a capture takes.
    pub(super) fn begins_with_capture(&self) -> bool {
        matches!(self.0.first(), Some(Piece::Capture(_)))
    }

    pub(super) fn captures(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Capture(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    fn fill<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Capture(name) => value(name),
            })
            .collect()
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Capture(name) => write!(f, "{{{name}}}"),
        })
    }
}

pub(super) fn check_parameter_name(name: &str) -> Result<(), ParameterNameError> {
    if name.is_empty() {
        return Err(ParameterNameError::Empty);
    }
    if name.starts_with("arn:") {
        return Err(ParameterNameError::Arn);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if let Some(c) = name.chars().find(|&c| !allowed(c)) {
        return Err(ParameterNameError::Character(c));
    }
    if name.len() > MAX_PARAMETER_NAME {
        return Err(ParameterNameError::TooLong);
    }
    let Some(path) = name.strip_prefix('/') else {
        return if name.contains('/') {
            Err(ParameterNameError::Relative)
        } else {
            Ok(())
        };
    };
    if path.split('/').any(str::is_empty) {
        return Err(ParameterNameError::EmptyLevel);
    }
    if path.split('/').count() > MAX_LEVELS {
        return Err(ParameterNameError::TooDeep);
    }
    Ok(())
}

fn list(captures: &[String]) -> String {
    let names: Vec<String> = captures.iter().map(|name| format!("{{{name}}}")).collect();
    format!("there are {}", names.join(", "))
}

fn renders(pieces: &[Piece], name: &str) -> bool {
    match pieces {
        [] => name.is_empty(),
        [Piece::Literal(text), rest @ ..] => name
            .strip_prefix(text.as_str())
            .is_some_and(|after| renders(rest, after)),
        [Piece::Capture(_), rest @ ..] => {
            let taken = name.bytes().take_while(|byte| is_name_byte(*byte)).count();
            (1..=taken).any(|end| renders(rest, &name[end..]))
        }
    }
}
