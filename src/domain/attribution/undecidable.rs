//! What cannot be decided, in words that name both sides and what to do.

/// Why nothing may be touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecidable {
    /// A write lies within actions of A and of another execution.
    #[error(
        "what wrote {what} cannot be decided: {own} of the rejected execution and {other} of execution \
         {execution_id} both ran then; set the target's deploy_stage to the one stage that deploys, or see \
         with `plan` whose it is now, before anything is taken down by hand"
    )]
    WriterUnclear {
        /// What was written.
        what: String,
        /// A's action.
        own: String,
        /// The other's action.
        other: String,
        execution_id: String,
    },
    /// No write is A's, and A is no rollback.
    #[error(
        "nothing shows that the rejected execution wrote the parameter: it holds \"{value}\", written by \
         {by}; another execution may have deployed there since: see with `plan` whose it is now, before anything \
         is taken down by hand"
    )]
    NotWritten {
        /// What the slot holds.
        value: String,
        by: String,
    },
    /// The history does not reach back to A's first candidate.
    #[error(
        "the parameter's history does not reach back to the rejected execution's first action: its \
         oldest version is {oldest}; clean by hand"
    )]
    HistoryTooShort {
        /// The oldest version that SSM still keeps.
        oldest: i64,
    },
}
