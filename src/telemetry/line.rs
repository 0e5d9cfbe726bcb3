//! One JSON object a line: the fields of the event and those of the job that it is about, all at the top.
//!
//! **Guarantees.** Each key is there once: what the event says comes before what its job's span says, and an
//! inner span before an outer one. Only spans of this crate are shown: what those of others hold may be what
//! goes over the wire.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::logging::is_ours;
use crate::domain::event::Rejection;

/// The span of everything that is about a job, or about a message of it; `target` is the target's pipeline as
/// written. At every level but `off` it is there.
pub(crate) fn job_span(pipeline: &str, execution_id: &str, target: Option<&str>) -> Span {
    tracing::error_span!("job", pipeline, execution.id = execution_id, target)
}

/// The same, of a rejection.
pub(crate) fn span_of(rejection: &Rejection, target: Option<&str>) -> Span {
    job_span(&rejection.pipeline.name, &rejection.execution_id, target)
}

/// Writes such lines.
pub(super) struct Flat;

impl<S> FormatEvent<S, JsonFields> for Flat
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = Line::of(context, event);
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", event.metadata().level())?;
        for (name, value) in line.0 {
            write!(writer, ",{}:{value}", Value::String(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// The fields of a line, in their order.
#[derive(Default)]
pub(super) struct Line(pub(super) Vec<(String, Value)>);

impl Line {
    /// Those of the event, then those of its job.
    pub(super) fn of<S>(context: &FmtContext<'_, S, JsonFields>, event: &Event<'_>) -> Self
    where
        S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    {
        let mut line = Self::default();
        event.record(&mut line);
        for span in context.event_scope().into_iter().flatten() {
            if !is_ours(span.metadata().target()) {
                continue;
            }
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() {
                let fields = serde_json::from_str::<Map<String, Value>>(&fields.fields);
                for (name, value) in fields.unwrap_or_default() {
                    line.add(name, value);
                }
            }
        }
        line
    }

    /// What is there stays.
    fn add(&mut self, name: String, value: Value) {
        if !self.0.iter().any(|(there, _)| *there == name) {
            self.0.push((name, value));
        }
    }

    fn field(&mut self, field: &Field, value: impl Into<Value>) {
        self.add(field.name().to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value);
    }
}
