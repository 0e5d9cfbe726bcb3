//! Templates of parameter names over a pattern's captures.

use super::is_name_byte;
use super::pattern::{PatternError, Piece, pieces};

/// The largest number of characters in a parameter's name (Systems Manager API reference:
/// `PutParameter`).
const MAX_PARAMETER_NAME: usize = 1011;

/// The largest number of levels in a parameter's path (the same source).
const MAX_LEVELS: usize = 15;

/// A parameter's name with captures in it: `/{service}/cloudfront/cfcd-staging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

/// Why a text is no template of a parameter's name.
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
    Name(ParameterNameError),
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
    /// Checks a template. Without `captures` (their pattern is faulty), it is not checked which
    /// of them it uses.
    pub(super) fn parse(written: &str, captures: Option<&[String]>) -> Result<Self, TemplateError> {
        let template = Self(pieces(written).map_err(TemplateError::Syntax)?);
        let used = template.0.iter().filter_map(|piece| match piece {
            Piece::Capture(name) => Some(name),
            Piece::Literal(_) => None,
        });
        for capture in used {
            if let Some(known) = captures
                && !known.contains(capture)
            {
                return Err(TemplateError::UnknownCapture {
                    capture: capture.clone(),
                    known: known.to_vec(),
                });
            }
        }
        // A capture takes at least one character and never a slash, so any letter stands for it.
        check(&template.fill(|_| "x")).map_err(TemplateError::Name)?;
        Ok(template)
    }

    /// Whether some captures render this name. A capture that is used twice may stand for two
    /// different texts here: the answer errs on the side of yes.
    pub(super) fn may_render(&self, name: &str) -> bool {
        renders(&self.0, name)
    }

    /// Fills the captures in and checks the result.
    pub(super) fn render(
        &self,
        captured: &[(String, String)],
    ) -> Result<String, ParameterNameError> {
        let name = self.fill(|capture| {
            captured
                .iter()
                .find(|(name, _)| name == capture)
                .map_or("", |(_, value)| value)
        });
        check(&name)?;
        Ok(name)
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

fn check(name: &str) -> Result<(), ParameterNameError> {
    if name.is_empty() {
        return Err(ParameterNameError::Empty);
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
    if captures.is_empty() {
        return "it has none".to_owned();
    }
    let names: Vec<String> = captures.iter().map(|name| format!("{{{name}}}")).collect();
    format!("it has {}", names.join(", "))
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
