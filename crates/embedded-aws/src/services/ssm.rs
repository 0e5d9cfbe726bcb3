//! Parameter Store over AWS JSON 1.1.
//!
//! After the Systems Manager API reference. There is no compare-and-set: the last PutParameter
//! wins, and only the version that it answers tells whether another came between.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::services::by::By;
use crate::wire::exchange::{Call, Change, Failure, Reply};
use crate::wire::ids::stable_hash;
use crate::wire::settings::Settings;
use crate::wire::time::epoch_seconds;

/// Versions that are kept of one parameter.
const HISTORY: usize = 100;

/// The type of a parameter whose value is encrypted.
pub(crate) const SECURE: &str = "SecureString";

/// The tier of a parameter for which nobody asked for another.
const STANDARD: &str = "Standard";

/// The largest value of a standard parameter, in bytes.
const MAX_VALUE: usize = 4096;

/// What a page of GetParameterHistory holds at most, and unless the caller says otherwise.
const PAGE: usize = 50;

#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) value: String,
    pub(crate) at: Timestamp,
    pub(crate) by: By,
}

#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    /// `String`, `StringList` or `SecureString`.
    pub(crate) kind: String,
    description: Option<String>,
    /// `Standard` or `Advanced`.
    pub(crate) tier: String,
    /// What every value must match as a whole.
    pub(crate) allowed_pattern: Option<String>,
    /// Oldest first, never empty.
    pub(crate) versions: Vec<Version>,
}

impl Parameter {
    pub(crate) fn latest(&self) -> Option<&Version> {
        self.versions.last()
    }

    fn allows(&self, value: &str) -> bool {
        let Some(pattern) = &self.allowed_pattern else {
            return true;
        };
        let whole = regex_lite::Regex::new(&format!("^(?:{pattern})$"));
        whole.is_ok_and(|it| it.is_match(value))
    }

    /// What a reader sees of a version: without decryption, of a SecureString, its ciphertext.
    fn shown(&self, version: &Version, decrypted: bool) -> String {
        if decrypted || self.kind != SECURE {
            return version.value.clone();
        }
        let secret = stable_hash(&[version.value.as_bytes()]);
        format!("AQICAHh{secret:016x}AAAAfjB8BgkqhkiG9w0BBwagbzBtAgEAMGgGCSqGSIb3DQEHATAeBg==")
    }
}

/// The parameters of the account.
#[derive(Debug, Default)]
pub(crate) struct Ssm {
    pub(crate) parameters: BTreeMap<String, Parameter>,
}

fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(400, code, message)
}

fn invalid(message: impl Into<String>) -> Failure {
    failure("ValidationException", message)
}

fn not_found() -> Failure {
    // This error comes without a text.
    failure("ParameterNotFound", "")
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Failure> {
    body.get(name).and_then(Value::as_str).filter(|it| !it.is_empty()).ok_or_else(|| {
        let field = name.to_lowercase();
        invalid(format!(
            "1 validation error detected: Value null at '{field}' failed to satisfy constraint: \
             Member must not be null"
        ))
    })
}

fn decrypts(body: &Value) -> bool {
    body.get("WithDecryption").and_then(Value::as_bool) == Some(true)
}

impl Ssm {
    /// Writes a new version; answers its number.
    pub(crate) fn put(&mut self, name: &str, value: &str, at: Timestamp, by: &By) -> u64 {
        let parameter = self
            .parameters
            .entry(name.to_owned())
            .or_insert_with(|| Parameter {
                kind: "String".to_owned(),
                description: None,
                tier: STANDARD.to_owned(),
                allowed_pattern: None,
                versions: Vec::new(),
            });
        let number = parameter.latest().map_or(1, |latest| latest.number + 1);
        parameter.versions.push(Version {
            number,
            value: value.to_owned(),
            at,
            by: by.clone(),
        });
        let excess = parameter.versions.len().saturating_sub(HISTORY);
        parameter.versions.drain(..excess);
        number
    }

    /// Carries out one request. `stale` asks reads for the version before the last.
    pub(crate) fn call(
        &mut self,
        settings: &Settings,
        now: Timestamp,
        call: &Call,
        by: &By,
        body: &Value,
        stale: bool,
    ) -> Result<Reply, Failure> {
        match call.operation.as_str() {
            "GetParameter" => {
                let name = text(body, "Name")?;
                let parameter = self.get(settings, name, decrypts(body), stale)?;
                Ok(Reply::json(&json!({ "Parameter": parameter })))
            }
            "PutParameter" => self.put_parameter(now, by, body),
            "GetParameterHistory" => self.history(settings, body),
            "DescribeParameters" => {
                let all: Vec<Value> = self
                    .parameters
                    .iter()
                    .filter_map(|(name, parameter)| {
                        let latest = parameter.latest()?;
                        Some(json!({
                            "Name": name,
                            "ARN": arn(settings, name),
                            "Type": parameter.kind,
                            "LastModifiedDate": epoch_seconds(latest.at),
                            "LastModifiedUser": latest.by.arn,
                            "Version": latest.number,
                            "Tier": parameter.tier,
                            "AllowedPattern": parameter.allowed_pattern,
                            "DataType": "text",
                        }))
                    })
                    .collect();
                Ok(Reply::json(&json!({ "Parameters": all })))
            }
            other => Err(failure(
                "UnknownOperationException",
                format!("{other} is not an operation of the embedded Parameter Store."),
            )),
        }
    }

    /// A parameter by name, ARN, or either with `:version`.
    fn get(
        &self,
        settings: &Settings,
        name: &str,
        decrypted: bool,
        stale: bool,
    ) -> Result<Value, Failure> {
        let name = plain_name(settings, name);
        let (name, selector) = name
            .split_once(':')
            .map_or((name, None), |(name, version)| (name, Some(version)));
        let parameter = self.parameters.get(name).ok_or_else(not_found)?;
        let versions = &parameter.versions;
        let version = match selector {
            Some(selector) => versions
                .iter()
                .find(|version| version.number.to_string() == selector)
                .ok_or_else(|| {
                    let text =
                        format!("Systems Manager could not find version {selector} of {name}.");
                    failure("ParameterVersionNotFound", text)
                })?,
            None if stale && versions.len() > 1 => &versions[versions.len() - 2],
            None => parameter.latest().ok_or_else(not_found)?,
        };
        let mut out = json!({
            "Name": name,
            "Type": parameter.kind,
            "Value": parameter.shown(version, decrypted),
            "Version": version.number,
            "LastModifiedDate": epoch_seconds(version.at),
            "ARN": arn(settings, name),
            "DataType": "text",
        });
        if let Some(selector) = selector {
            out["Selector"] = Value::String(format!(":{selector}"));
        }
        Ok(out)
    }

    fn put_parameter(&mut self, now: Timestamp, by: &By, body: &Value) -> Result<Reply, Failure> {
        let name = text(body, "Name")?;
        let value = text(body, "Value")?;
        let legal = |it: char| it.is_ascii_alphanumeric() || "_.-/".contains(it);
        if !name.chars().all(legal) {
            let message = "Parameter name: can't be prefixed with \"ssm\" (case-insensitive). If \
                           formed as a path, it can consist of sub-paths divided by slash symbol; \
                           each sub-path can be formed as a mix of letters, numbers and the \
                           following 3 symbols .-_";
            return Err(invalid(message));
        }
        if value.len() > MAX_VALUE {
            let message = "Standard tier parameters support a maximum parameter value of 4096 \
                           characters.";
            return Err(invalid(message));
        }
        let overwrite = body
            .get("Overwrite")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let kind = body.get("Type").and_then(Value::as_str);
        let tier = body.get("Tier").and_then(Value::as_str);
        let before = match (self.parameters.get(name), kind) {
            (Some(_), _) if !overwrite => {
                let message = "The parameter already exists. To overwrite this value, set the \
                               overwrite option in the request to true.";
                return Err(failure("ParameterAlreadyExists", message));
            }
            (Some(old), Some(kind)) if old.kind != kind => {
                return Err(invalid("The parameter type can't be changed."));
            }
            (None, None) => {
                let message = "A parameter type is required when you create a parameter.";
                return Err(invalid(message));
            }
            (Some(old), _) if old.tier != STANDARD && tier != Some(&*old.tier) => {
                return Err(invalid(
                    "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the \
                     advanced-parameter tier to the standard-parameter tier.",
                ));
            }
            (Some(old), _) if !old.allows(value) => {
                let message = format!(
                    "Parameter value, cannot be validated against allowedPattern: {}",
                    old.allowed_pattern.as_deref().unwrap_or_default()
                );
                return Err(failure("ParameterPatternMismatchException", message));
            }
            (Some(old), _) => old
                .latest()
                .map_or_else(String::new, |latest| latest.value.clone()),
            (None, Some(_)) => String::new(),
        };
        let version = self.put(name, value, now, by);
        if let Some(parameter) = self.parameters.get_mut(name) {
            if let Some(kind) = kind {
                kind.clone_into(&mut parameter.kind);
            }
            if let Some(description) = body.get("Description").and_then(Value::as_str) {
                parameter.description = Some(description.to_owned());
            }
        }
        let change = Change::from_to(
            format!("{before:?} -> {value:?}, version {version}"),
            before,
            value,
        );
        let tier = self.parameters.get(name).map(|it| &*it.tier);
        Ok(Reply::json(&json!({ "Version": version, "Tier": tier })).changed(change))
    }

    /// Oldest first, a page at a time. The token is the first version of the next page.
    fn history(&self, settings: &Settings, body: &Value) -> Result<Reply, Failure> {
        let name = plain_name(settings, text(body, "Name")?);
        let size = match body.get("MaxResults").filter(|it| !it.is_null()) {
            None => PAGE,
            Some(value) => value
                .as_u64()
                .and_then(|it| usize::try_from(it).ok())
                .filter(|it| (1..=PAGE).contains(it))
                .ok_or_else(|| invalid("MaxResults must be between 1 and 50."))?,
        };
        let from = match body.get("NextToken").and_then(Value::as_str) {
            None => 0,
            Some(token) => token
                .strip_prefix("version-")
                .and_then(|it| it.parse().ok())
                .ok_or_else(|| failure("InvalidNextToken", "The specified token isn't valid."))?,
        };
        let parameter = self.parameters.get(name).ok_or_else(not_found)?;
        let mut rest = parameter
            .versions
            .iter()
            .filter(|version| version.number >= from);
        let page: Vec<Value> = rest
            .by_ref()
            .take(size)
            .map(|version| {
                let mut out = json!({
                    "Name": name,
                    "Type": parameter.kind,
                    "Value": parameter.shown(version, decrypts(body)),
                    "Version": version.number,
                    "LastModifiedDate": epoch_seconds(version.at),
                    "LastModifiedUser": version.by.arn,
                    "Labels": [],
                    "Tier": parameter.tier,
                    "AllowedPattern": parameter.allowed_pattern,
                    "Policies": [],
                    "DataType": "text",
                });
                if let Some(description) = &parameter.description {
                    out["Description"] = Value::String(description.clone());
                }
                out
            })
            .collect();
        let mut out = json!({ "Parameters": page });
        if let Some(next) = rest.next() {
            out["NextToken"] = Value::String(format!("version-{}", next.number));
        }
        Ok(Reply::json(&out))
    }
}

fn plain_name<'a>(settings: &Settings, name: &'a str) -> &'a str {
    let prefix = arn(settings, "");
    match name.strip_prefix(&prefix) {
        // The slash between `parameter` and a path belongs to the path.
        Some(rest) if name.matches('/').count() > 1 => {
            let start = name.len() - rest.len() - 1;
            &name[start..]
        }
        Some(rest) => rest,
        None => name,
    }
}

fn arn(settings: &Settings, name: &str) -> String {
    let name = name.strip_prefix('/').unwrap_or(name);
    format!(
        "arn:aws:ssm:{}:{}:parameter/{name}",
        settings.region, settings.account
    )
}
