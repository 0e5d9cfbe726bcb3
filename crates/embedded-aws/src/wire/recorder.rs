//! Keeps exchanges as they went over the wire, for a check against AWS's own service models.
//!
//! Where the environment names a directory in `EMBEDDED_AWS_EXCHANGES`, each process appends to one file in it, one
//! JSON object a line. Exchanges of one shape are kept once: the same operation, status, and names of
//! members. After [`LOOKED_AT`] of one operation and status no more are looked at, so that long runs cost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};

use crate::wire::exchange::{AwsService, Call};

/// The variable that names the directory.
const DIRECTORY: &str = "EMBEDDED_AWS_EXCHANGES";

/// How many exchanges of one operation and status are looked at for new shapes.
const LOOKED_AT: usize = 200;

/// The headers that belong to the services' models.
const MODELLED: [&str; 6] = [
    "etag",
    "if-match",
    "location",
    "staging",
    "x-amz-target",
    "x-amzn-query-error",
];

#[derive(Debug)]
struct Recorder {
    file: File,
    looked_at: BTreeMap<(String, u16), usize>,
    shapes: BTreeSet<u64>,
}

/// Records an exchange, if the environment asks for that.
pub(crate) fn record(call: &Call, request: &Request<Vec<u8>>, response: &Response<Vec<u8>>) {
    static RECORDER: OnceLock<Option<Mutex<Recorder>>> = OnceLock::new();
    let recorder = RECORDER.get_or_init(|| {
        // What this crate's own tests send comes from no AWS client.
        let directory = std::env::var_os(DIRECTORY).filter(|_| !cfg!(test))?;
        Some(Mutex::new(Recorder::open(Path::new(&directory))))
    });
    if let Some(recorder) = recorder {
        let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.record(call, request, response);
    }
}

impl Recorder {
    /// # Panics
    /// If the directory cannot be written: a check of nothing must not pass.
    fn open(directory: &Path) -> Self {
        let path = directory.join(format!("{}.jsonl", std::process::id()));
        let opened = std::fs::create_dir_all(directory)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        Self {
            file: opened.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            looked_at: BTreeMap::new(),
            shapes: BTreeSet::new(),
        }
    }

    fn record(&mut self, call: &Call, request: &Request<Vec<u8>>, response: &Response<Vec<u8>>) {
        let operation = format!("{} {}", call.service, call.operation);
        let status = response.status().as_u16();
        let looked_at = self.looked_at.entry((operation, status)).or_default();
        *looked_at += 1;
        if call.service == AwsService::Unknown || *looked_at > LOOKED_AT {
            return;
        }
        let (asked, answered) = (text(request.body()), text(response.body()));
        let mut shape = DefaultHasher::new();
        (call.service, &call.operation, status).hash(&mut shape);
        names(&asked).hash(&mut shape);
        names(&answered).hash(&mut shape);
        if !self.shapes.insert(shape.finish()) {
            return;
        }
        let line = json!({
            "service": call.service.to_string(),
            "operation": call.operation,
            "method": request.method().as_str(),
            "uri": request.uri().path_and_query().map(ToString::to_string),
            "request_headers": modelled(request.headers()),
            "request": asked,
            "status": status,
            "response_headers": modelled(response.headers()),
            "response": answered,
        });
        let written = writeln!(self.file, "{line}");
        written.unwrap_or_else(|error| panic!("{DIRECTORY}: {error}"));
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn modelled(headers: &HeaderMap) -> Value {
    let known = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some((name.to_owned(), Value::from(value)))
    };
    MODELLED.iter().filter_map(|name| known(name)).collect()
}

/// The words of a body that stand where names of members and elements stand, and error codes.
fn names(body: &str) -> BTreeSet<&str> {
    if body.starts_with('<') {
        body.split('<')
            .filter_map(|it| it.split(['>', ' ', '/']).next())
            .collect()
    } else {
        // A quoted text before a colon, or an error's code after one.
        body.split("\":")
            .filter_map(|it| it.rsplit('"').next())
            .chain(
                body.split("__type\":\"")
                    .nth(1)
                    .and_then(|it| it.split('"').next()),
            )
            .collect()
    }
}
