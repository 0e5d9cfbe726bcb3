//! A program of the user's that is run for a rejection: as written, and filled in for one. No I/O.
//!
//! **Guarantees.** Which program is run is written in the configuration, letter for letter: nothing
//! that an event says can choose another one. An event fills arguments only, each of which stays one
//! argument and becomes no option; and only with names and ids, never with the reviewer's free text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ResolvedTarget;
use super::pattern::PipelinePattern;
use super::template::{OF_THE_EVENT, Template, TemplateError, Values};
use crate::domain::event::Rejection;

/// How long a program may run where the target does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The exit status by which every program can ask to be run again: `EX_TEMPFAIL` of `sysexits.h`.
pub const TRY_AGAIN: i32 = 75;

/// What an argument may use besides the captures of its pattern, and besides [`OF_THE_EVENT`].
/// A capture of the same name comes first.
const OF_THE_REJECTION: [&str; 4] = ["execution_id", "pipeline", "stage", "action"];

/// A program as the user wrote it, nothing checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramSpec {
    /// The program's absolute path, and its arguments, which may use captures.
    pub run: Vec<String>,
    /// How long it may run; ten minutes where it is not said.
    pub timeout: Option<Duration>,
    /// Exit statuses by which it asks to be run again, besides [`TRY_AGAIN`].
    pub retry_on: Vec<i64>,
    /// Variables of the daemon's own environment that it is given.
    pub pass_environment: Vec<String>,
}

/// A program for one pipeline, whose arguments are known but for what only the rejection tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    /// As written.
    arguments: Vec<Template>,
    /// What is known so far of what they use.
    values: Values,
    /// How long it may run.
    pub timeout: Duration,
    /// Exit statuses by which it asks to be run again.
    pub retry_on: BTreeSet<i32>,
    /// Variables of the daemon's own environment that it is given.
    pub pass_environment: Vec<String>,
}

/// An argument that begins with what an event or a pipeline's name says, which the program would take for an
/// option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "run[{place}], {written:?}, comes to {text:?}, which the program would take for an option; begin the argument \
     with a text of its own, such as \"--name={written}\", or give the pipeline a target of its own"
)]
pub struct OptionArgument {
    /// Its place in `run`.
    place: usize,
    written: String,
    /// Filled in.
    text: String,
}

impl OptionArgument {
    /// A bounded code for logs and metrics.
    pub const CODE: &str = "program_argument_is_option";
}

/// What is wrong with a program; completes a sentence that begins with the text, number or list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// There is no program.
    #[error("is empty; the first text is the program's path")]
    Empty,
    /// A path that depends on a search or on the working directory.
    #[error("is not an absolute path, such as \"/usr/local/bin/undo\"")]
    NotAbsolute,
    /// A path that is not literal.
    #[error("has braces and is the program's path; captures belong in its arguments")]
    PathCapture,
    /// No program can be given a zero byte.
    #[error("has a zero byte")]
    ZeroByte,
    /// An argument's captures are faulty.
    #[error(transparent)]
    Argument(TemplateError),
    /// A number that no exit status is.
    #[error("is no exit status that can ask for another try; those are 1 to 255")]
    ExitStatus,
    /// A text that is no variable's name.
    #[error("is not the name of an environment variable")]
    Variable,
}

impl Program {
    /// Checks a program; `fail` is told of each fault, and which element of the key's list it is, if it is
    /// one. Without `pattern` (it is faulty), it is not checked which captures it uses.
    pub(super) fn check(
        spec: &ProgramSpec,
        pattern: Option<&PipelinePattern>,
        fail: &mut impl FnMut(&'static str, Option<usize>, ProgramError),
    ) -> Option<Self> {
        let mut sound = true;
        let mut fail = |key, element, error| {
            sound = false;
            fail(key, element, error);
        };
        let path = spec.run.first().map_or("", String::as_str);
        if spec.run.is_empty() {
            fail("run", None, ProgramError::Empty);
        } else if path.contains(['{', '}']) {
            fail("run", Some(0), ProgramError::PathCapture);
        } else if !Path::new(path).is_absolute() {
            fail("run", Some(0), ProgramError::NotAbsolute);
        }
        for (place, text) in spec.run.iter().enumerate() {
            if text.contains('\0') {
                fail("run", Some(place), ProgramError::ZeroByte);
            }
        }
        let names: Vec<&str> = OF_THE_EVENT.into_iter().chain(OF_THE_REJECTION).collect();
        let mut arguments = Vec::new();
        for (place, text) in spec.run.iter().enumerate().skip(1) {
            match Template::parse_with(text, pattern, &names) {
                Ok(template) => arguments.push(template),
                Err(error) => fail("run", Some(place), ProgramError::Argument(error)),
            }
        }
        let mut retry_on = BTreeSet::from([TRY_AGAIN]);
        for (place, &status) in spec.retry_on.iter().enumerate() {
            match i32::try_from(status) {
                Ok(status @ 1..=255) => {
                    retry_on.insert(status);
                }
                _ => fail("retry_on", Some(place), ProgramError::ExitStatus),
            }
        }
        for (place, name) in spec.pass_environment.iter().enumerate() {
            if !is_variable(name) {
                fail("pass_environment", Some(place), ProgramError::Variable);
            }
        }
        sound.then(|| Self {
            path: path.into(),
            arguments,
            values: Values::new(),
            timeout: spec.timeout.unwrap_or(DEFAULT_TIMEOUT),
            retry_on,
            pass_environment: spec.pass_environment.clone(),
        })
    }

    /// The program with its arguments filled in as far as `values` go.
    pub(super) fn fill_in(&self, values: &Values) -> Self {
        Self {
            values: values.clone(),
            ..self.clone()
        }
    }

    /// The program's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path and the arguments, each one text; what is not filled in stands as it is written.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let path = self.path.display().to_string();
        let arguments = self.arguments.iter().map(|it| it.fill_in(&self.values));
        let arguments = arguments.map(|it| it.to_string());
        std::iter::once(path).chain(arguments).collect()
    }

    /// The arguments for one rejection.
    ///
    /// # Errors
    /// [`OptionArgument`]: the program must not be run for this one.
    pub fn arguments(&self, rejection: &Rejection) -> Result<Vec<String>, OptionArgument> {
        let values = [
            rejection.execution_id.as_str(),
            &rejection.pipeline.name,
            &rejection.stage,
            &rejection.action,
        ];
        self.filled_in(OF_THE_REJECTION.into_iter().zip(values))
    }

    /// Why a rejection of this pipeline must not run it, as far as the pipeline alone tells.
    #[must_use]
    pub fn fault_of(&self, pipeline: &str) -> Option<OptionArgument> {
        self.filled_in([("pipeline", pipeline)]).err()
    }

    fn filled_in<'a>(
        &self,
        more: impl IntoIterator<Item = (&'static str, &'a str)>,
    ) -> Result<Vec<String>, OptionArgument> {
        let mut values = self.values.clone();
        let more = more.into_iter();
        values.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let argument = |(place, template): (usize, &Template)| {
            let text = template.fill_in(&values).to_string();
            if text.starts_with('-') && template.begins_with_capture() {
                let written = template.to_string();
                return Err(OptionArgument {
                    // The first text is the program.
                    place: place + 1,
                    written,
                    text,
                });
            }
            Ok(text)
        };
        self.arguments.iter().enumerate().map(argument).collect()
    }
}

impl ResolvedTarget {
    /// Why its program must not be run for this rejection.
    #[must_use]
    pub fn argument_fault(&self, rejection: &Rejection) -> Option<OptionArgument> {
        self.program.as_ref()?.arguments(rejection).err()
    }
}

impl std::fmt::Display for Program {
    /// The path and the arguments, with what is not filled in as it is written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
