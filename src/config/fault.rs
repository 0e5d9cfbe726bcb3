//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value, or the lack of one, was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a line and a column of the file, both counted from one; columns in characters.
    At {
        file: PathBuf,
        line: usize,
        column: usize,
    },
    /// The file as a whole: something is missing, or the file cannot be read.
    File(PathBuf),
    /// An environment variable, by the name under which it is set.
    Variable(String),
    /// The built-in default.
    Default,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    /// The dotted key it is about; `None` where it is about the file.
    pub key: Option<String>,
    /// What was found and what is expected.
    pub message: String,
}

/// Everything that is wrong with a configuration; never empty. Displayed one fault a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Sorted by place: the file's in its order, then what it lacks, then the environment's.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        debug_assert!(!faults.is_empty(), "refused without a reason");
        faults.sort_by_key(|fault| match &fault.place {
            Place::At { line, column, .. } => (0, *line, *column),
            Place::File(_) => (1, 0, 0),
            Place::Variable(_) => (2, 0, 0),
            Place::Default => (3, 0, 0),
        });
        Self(faults)
    }

    /// The faults in the order in which they are displayed.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { file, line, column } => {
                write!(f, "{}:{line}:{column}", file.display())
            }
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}
