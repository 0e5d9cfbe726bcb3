//! What must hold of any input at all. Run by the fuzzer, and as plain tests.
//!
//! Each body compares with a judgement that is made in another way: another parser, another
//! matcher, the configuration read back.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::Value;
use stagesweep::aws::edit::{Edit, EditError, apply};
use stagesweep::config::Config;
use stagesweep::domain::arn::PipelineArn;
use stagesweep::domain::event::{Kind, NotARejection, parse};
use stagesweep::domain::targets::{ResolveError, Surroundings, TargetSpec, Targets};
use xml::reader::{ParserConfig, XmlEvent};

/// A message's body: what is taken for a rejection is one.
pub(crate) fn event(data: &[u8]) {
    let Ok(body) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = parse(body);
    let again = parse(body);
    let Ok(event) = parsed else {
        let why = parsed.unwrap_err();
        assert_eq!(why.code(), again.unwrap_err().code());
        // Where, and never what: bodies are not for logs.
        assert!(why.to_string().len() < 500, "{why}");
        return;
    };
    assert_eq!(event, again.unwrap());

    let Ok(json) = serde_json::from_str::<Value>(body) else {
        // JSON by its grammar, with half a surrogate pair or too large a number where nobody looks.
        let grammatical = serde_json::from_str::<IgnoredAny>(body);
        grammatical.expect("what is no JSON is malformed");
        return;
    };
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str);
    assert_eq!(text("/source"), Some("aws.codepipeline"));
    assert_eq!(text("/account"), Some(&*event.account));
    let is_action = text("/detail-type") == Some("CodePipeline Action Execution State Change");
    let has_failed = text("/detail/state") == Some("FAILED");
    let is_approval = text("/detail/type/category") == Some("Approval");
    match event.kind {
        Kind::Rejection(rejection) => {
            assert!(is_action && has_failed && is_approval, "{body}");
            assert_eq!(text("/detail/pipeline"), Some(&*rejection.pipeline.name));
            assert_eq!(text("/detail/stage"), Some(&*rejection.stage));
            assert_eq!(text("/detail/action"), Some(&*rejection.action));
            assert_eq!(text("/detail/execution-id"), Some(&*rejection.execution_id));
            assert!(rejection.key.as_str().starts_with(&rejection.execution_id));
            assert_eq!(rejection.pipeline.account, event.account);
            let url = rejection.console_url().unwrap_or_default();
            assert!(!url.contains(char::is_whitespace));
        }
        Kind::NotARejection(NotARejection::NotAnAction) => assert!(!is_action),
        Kind::NotARejection(NotARejection::NotFailed) => assert!(is_action && !has_failed),
        Kind::NotARejection(NotARejection::NotAnApproval) => {
            assert!(is_action && has_failed && !is_approval);
        }
    }
}

/// A configuration file: what is taken says the same when it is read back.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("fuzzed.toml");
    let config = match Config::parse(path, text, &BTreeMap::new()) {
        Ok(config) => config,
        Err(faults) => {
            let faults = faults.to_string();
            assert!(faults.lines().all(|line| line.contains(": ")), "{faults}");
            return;
        }
    };
    assert!(!config.targets.is_empty());
    assert!(config.queue.heartbeat_interval < config.queue.visibility_timeout);
    assert!(config.cleanup.poll_interval_min <= config.cleanup.poll_interval_max);
    assert!(config.retry.initial_backoff <= config.retry.max_backoff);

    let settings = config.settings();
    let variables = settings.iter().map(|(key, value)| {
        let name = key.to_uppercase().replace('.', "__");
        (format!("STAGESWEEP__{name}"), value.clone())
    });
    let variables = variables.collect();
    match Config::parse(path, text, &variables) {
        Ok(again) => assert_eq!(again.settings(), settings),
        Err(faults) => panic!("{settings:?} is not read back: {faults}"),
    }
}

const POLICY: &str = "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f";

/// A distribution's configuration: one element changes, or the document is refused.
pub(crate) fn edit(data: &[u8]) {
    let Ok(document) = std::str::from_utf8(data) else {
        return;
    };
    let before = read(document);
    for edit in [Edit::disable(), Edit::detach(POLICY)] {
        let edited = match apply(document, edit) {
            Ok(edited) => edited,
            Err(error) => {
                assert!(
                    !is_plain(document, before.as_deref().ok(), edit),
                    "{error:?}"
                );
                if let EditError::Malformed(_) = error {
                    assert!(
                        !is_surely_well_formed(document, before.as_deref().ok()),
                        "{error:?}"
                    );
                }
                continue;
            }
        };
        let before = before.as_ref().expect("a malformed document was edited");
        let after = read(&edited).expect("the edited document is malformed");
        assert!(
            only_changes(before, &after, edit),
            "{document}\n---\n{edited}"
        );

        // Every byte outside of that element's text is as it was.
        let same = document.bytes().zip(edited.bytes());
        let head = same.take_while(|(a, b)| a == b).count();
        let rest = (document.len() - head).min(edited.len() - head);
        let same = document.bytes().rev().zip(edited.bytes().rev()).take(rest);
        let tail = same.take_while(|(a, b)| a == b).count();
        let replaced = &document[head..document.len() - tail];
        assert!(!replaced.contains(['<', '>', '&']), "{replaced}");
    }
}

/// The document as another parser reads it.
fn read(document: &str) -> Result<Vec<XmlEvent>, xml::reader::Error> {
    let strict = ParserConfig::new().allow_multiple_root_elements(false);
    let reader = strict.create_reader(document.as_bytes());
    reader.into_iter().collect()
}

/// Whether nothing but the text of the edit's element differs.
fn only_changes(before: &[XmlEvent], after: &[XmlEvent], edit: Edit<'_>) -> bool {
    let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let Some((XmlEvent::Characters(held), rest)) = before[same..].split_first() else {
        return false;
    };
    let mut path = Vec::new();
    for event in &before[..same] {
        match event {
            XmlEvent::StartElement { name, .. } => path.push(name.local_name.as_str()),
            XmlEvent::EndElement { .. } => drop(path.pop()),
            _ => {}
        }
    }
    let now_holds = match (&after[same..], edit.to) {
        (now, "") => now == rest,
        ([XmlEvent::Characters(now), others @ ..], to) => now == to && others == rest,
        _ => false,
    };
    path == ["DistributionConfig", edit.element] && held.trim() == edit.from && now_holds
}

/// Both parsers must take a document of these characters alone, if one does.
fn is_surely_well_formed(document: &str, events: Option<&[XmlEvent]>) -> bool {
    let simple = |c: char| c.is_ascii_alphanumeric() || "<>/ \n-".contains(c);
    events.is_some() && document.chars().all(simple)
}

/// A document that nobody has a reason to refuse: elements and text alone, and the edit's element
/// once, holding what the edit expects.
fn is_plain(document: &str, events: Option<&[XmlEvent]>, edit: Edit<'_>) -> bool {
    let Some(events) = events.filter(|_| is_surely_well_formed(document, events)) else {
        return false;
    };
    let mut path: Vec<&str> = Vec::new();
    let (mut found, mut children, mut held) = (0, 0, String::new());
    for event in events {
        match event {
            XmlEvent::StartElement { name, .. } => {
                if path.as_slice() == ["DistributionConfig"] {
                    found += usize::from(name.local_name == edit.element);
                }
                children += usize::from(path.as_slice() == ["DistributionConfig", edit.element]);
                path.push(&name.local_name);
            }
            XmlEvent::EndElement { .. } => drop(path.pop()),
            XmlEvent::Characters(text)
                if path.as_slice() == ["DistributionConfig", edit.element] =>
            {
                held.push_str(text);
            }
            _ => {}
        }
    }
    (found, children) == (1, 0) && held.trim() == edit.from
}

/// Targets and a pipeline, one field a line: a pattern matches in as many ways as a plain search
/// finds, and its captures are what that finds.
pub(crate) fn targets(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let arn = line();
    let (pattern, stage, action, production, staging) = (line(), line(), line(), line(), line());
    let spec = TargetSpec {
        pipeline: pattern,
        stage: Some(stage.clone()),
        action: Some(action.clone()),
        production_parameter: Some(production.clone()),
        staging_parameter: Some(staging.clone()),
        role_arn: Some(line()).filter(|line| !line.is_empty()),
        external_id: Some(line()).filter(|line| !line.is_empty()),
        region: Some(line()).filter(|line| !line.is_empty()),
        pipeline_role_arn: Some(line()).filter(|line| !line.is_empty()),
        deploy_stage: Some(line()).filter(|line| !line.is_empty()),
        ..TargetSpec::default()
    };
    let targets_of = |account: &str| {
        let surroundings = Surroundings {
            account: Some(account.to_owned()),
            ..Surroundings::default()
        };
        Targets::new(std::slice::from_ref(&spec), surroundings)
    };
    let account = arn.split(':').nth(4).unwrap_or_default();
    let targets = match targets_of(account) {
        Ok(targets) => targets,
        Err(errors) => {
            assert!(!errors.is_empty());
            return;
        }
    };
    let Ok(pipeline) = arn.parse::<PipelineArn>() else {
        return;
    };
    assert_eq!(pipeline.to_string(), arn);
    assert_eq!(
        targets.resolve(&pipeline, &format!("{stage}x"), &action),
        Err(ResolveError::NoTarget)
    );
    let pieces = pieces(&spec.pipeline);
    if pieces.len() > 9 {
        // The search would take too long.
        return;
    }
    if !spec.pipeline.starts_with("arn:")
        && let Ok(elsewhere) = targets_of("000000000000")
        && account != "000000000000"
    {
        let resolution = elsewhere.resolve(&pipeline, &stage, &action);
        assert_eq!(
            resolution,
            Err(ResolveError::NoTarget),
            "a name of another account"
        );
    }
    let name = if spec.pipeline.starts_with("arn:") {
        &arn
    } else {
        &pipeline.name
    };
    let ways = ways(&pieces, name);
    let resolution = targets.resolve(&pipeline, &stage, &action);
    match (&ways[..], resolution) {
        ([], Err(ResolveError::NoTarget)) | ([_, _, ..], Err(ResolveError::Ambiguous(_))) => {}
        ([_], Err(ResolveError::Parameters(..) | ResolveError::Access(..))) => {}
        ([captured], Ok(target)) => {
            assert_eq!(target.label, spec.pipeline);
            let of_the_event = [
                ("account", pipeline.account.as_str()),
                ("region", pipeline.region.as_str()),
            ];
            let render = |template: &str| {
                captured
                    .iter()
                    .chain(&of_the_event)
                    .fold(template.to_owned(), |text, (name, value)| {
                        text.replace(&format!("{{{name}}}"), value)
                    })
            };
            let parameters = target.parameters.unwrap();
            assert_eq!(parameters.production, render(&production));
            assert_eq!(parameters.staging, render(&staging));
            let region = spec.region.as_deref().unwrap_or(&pipeline.region);
            assert_eq!(target.access.region, render(region));
            let role = target.access.role.as_ref();
            assert_eq!(
                role.map(|role| role.arn().to_owned()),
                spec.role_arn.as_deref().map(render)
            );
            assert_eq!(
                role.and_then(|role| role.external_id().map(str::to_owned)),
                spec.external_id.as_deref().map(render)
            );
            // Whatever the captures took: into the account that is written, or else into the event's.
            let written = spec.role_arn.as_deref().and_then(|it| it.split(':').nth(4));
            let literal = written.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
            let expected = literal.unwrap_or(&pipeline.account);
            assert!(role.is_none_or(|role| role.account() == expected));
            // CodePipeline is asked in the pipeline's own place.
            let asked = &target.pipeline_access;
            assert_eq!(asked.region, pipeline.region);
            let role = asked.role.as_ref();
            assert!(role.is_none_or(|role| role.account() == pipeline.account));
            // Its own parameters lead back to it, unless they leave a part of its name open.
            let tells = |(name, _): &(&str, &str)| {
                [&production, &staging].map(|it| it.contains(&format!("{{{name}}}")))
            };
            let told =
                captured.iter().all(|it| tells(it)[0]) || captured.iter().all(|it| tells(it)[1]);
            if told && spec.region.is_none() {
                let parameters = stagesweep::domain::targets::Parameters {
                    production: render(&production),
                    staging: render(&staging),
                };
                let around = targets.leading_to(&parameters, &target.access);
                assert!(
                    around.iter().any(|it| it.pipeline == pipeline),
                    "{around:?}"
                );
            }
        }
        (ways, resolution) => panic!("{resolution:?}, but found {ways:?}"),
    }
}

/// Literal texts, and captures in braces.
fn pieces(pattern: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let end = match rest.find('{') {
            Some(0) => rest.find('}').map_or(rest.len(), |at| at + 1),
            Some(at) => at,
            None => rest.len(),
        };
        pieces.push(&rest[..end]);
        rest = &rest[end..];
    }
    pieces
}

/// The first ways, two at the most, in which the pieces make up the text: captures with values.
fn ways<'a>(pieces: &[&'a str], text: &'a str) -> Vec<Vec<(&'a str, &'a str)>> {
    let Some((first, others)) = pieces.split_first() else {
        return if text.is_empty() {
            vec![Vec::new()]
        } else {
            Vec::new()
        };
    };
    let Some(capture) = first.strip_prefix('{') else {
        return match text.strip_prefix(first) {
            Some(rest) => ways(others, rest),
            None => Vec::new(),
        };
    };
    let name = capture.trim_end_matches('}');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".@-_".contains(&byte);
    let longest = text.bytes().take_while(|byte| allowed(*byte)).count();
    let mut found = Vec::new();
    for length in 1..=longest {
        for mut way in ways(others, &text[length..]) {
            way.push((name, &text[..length]));
            found.push(way);
            if found.len() == 2 {
                return found;
            }
        }
    }
    found
}
