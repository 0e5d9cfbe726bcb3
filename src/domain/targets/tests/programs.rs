//! Programs: what an event may say to them.

use jiff::Timestamp;

use super::*;
use crate::domain::event::{JobKey, Rejection};

#[test]
fn an_event_fills_the_arguments_of_a_program_and_never_chooses_it() {
    let mut spec = program("{service}-{stage}.pipeline", None, None);
    let run = [
        "/opt/undo",
        "",
        "{service}: {pipeline} of {account} in {region}",
        "{stage} {action}",
        "{execution_id}",
    ];
    spec.program = Some(ProgramSpec {
        run: run.map(str::to_owned).into(),
        timeout: None,
        retry_on: vec![1, 255],
        pass_environment: vec!["HTTPS_PROXY".to_owned()],
    });
    let targets = Targets::new(&[spec], at_home()).unwrap();
    let rejection = Rejection {
        key: JobKey::from("key".to_owned()),
        pipeline: pipeline("shop-eu.pipeline"),
        execution_id: "11-22".to_owned(),
        action_execution_id: None,
        stage: "Gate".to_owned(),
        action: "Review".to_owned(),
        as_of: Timestamp::UNIX_EPOCH,
        as_of_uncertainty: std::time::Duration::ZERO,
        rejected_at: Timestamp::UNIX_EPOCH,
        comment: Some("{service} --help".to_owned()),
    };
    let resolution = targets.resolve(&rejection.pipeline, "Gate", "Review");
    let Ok(ResolvedTarget {
        parameters: None,
        program: Some(program),
        ..
    }) = resolution
    else {
        panic!("{resolution:?}");
    };
    assert_eq!(program.path(), std::path::Path::new("/opt/undo"));
    // The capture `stage` comes before the stage of the event.
    let account = "012345678901";
    assert_eq!(
        program.arguments(&rejection).unwrap(),
        [
            "".to_owned(),
            format!("shop: shop-eu.pipeline of {account} in ap-northeast-1"),
            "eu Review".to_owned(),
            "11-22".to_owned(),
        ]
    );
    assert_eq!(program.timeout, std::time::Duration::from_secs(600));
    assert_eq!(program.retry_on, [1, TRY_AGAIN, 255].into());
}

#[test]
fn what_is_wrong_with_a_program_is_found_together() {
    let spec = TargetSpec {
        role_arn: Some("arn:aws:iam::{account}:role/x".to_owned()),
        program: Some(ProgramSpec {
            run: ["bin/undo", "{what}", "a\0b", "{open", "\0"]
                .map(str::to_owned)
                .into(),
            timeout: None,
            retry_on: vec![0, 1, 256],
            pass_environment: ["A=B", "A", ""].map(str::to_owned).into(),
        }),
        ..program("batch", None, Some("not a name"))
    };
    let mut braces = program("x", None, None);
    braces.program.as_mut().unwrap().run = vec!["/opt/{pipeline}".to_owned()];
    let mut empty = program("y", None, None);
    empty.program.as_mut().unwrap().run.clear();
    let mut half = program("z", None, None);
    half.staging_parameter = Some("/z/staging".to_owned());
    assert_eq!(
        problems(&[spec, braces, empty, half]),
        [
            "targets[0].action: contains ' '; a name has letters, digits and . @ - _ only",
            "targets[0].role_arn: is of no use without production_parameter and \
             staging_parameter: a program runs with the daemon's own credentials",
            "targets[0].run[0]: is not an absolute path, such as \"/usr/local/bin/undo\"",
            "targets[0].run[2]: has a zero byte",
            "targets[0].run[4]: has a zero byte",
            "targets[0].run[1]: uses the capture {what}, which `pipeline` does not have \
             (there are {account}, {region}, {execution_id}, {pipeline}, {stage}, {action})",
            "targets[0].run[3]: has unbalanced braces; a capture is written {name}",
            "targets[0].retry_on[0]: is no exit status that can ask for another try; those are 1 to 255",
            "targets[0].retry_on[2]: is no exit status that can ask for another try; those are 1 to 255",
            "targets[0].pass_environment[0]: is not the name of an environment variable",
            "targets[0].pass_environment[2]: is not the name of an environment variable",
            "targets[1].run[0]: has braces and is the program's path; captures belong in its arguments",
            "targets[2].run: is empty; the first text is the program's path",
            "targets[3].stage: is missing; every target that cleans needs it",
            "targets[3].action: is missing; every target that cleans needs it",
            "targets[3].production_parameter: is missing; a target that cleans needs both parameters, \
             one that does not needs `run`",
        ]
    );
}

#[test]
fn what_an_event_says_never_becomes_an_option() {
    let arguments = |written: &[&str], name: &str| {
        let mut spec = program("{first}x-{last}", None, None);
        let mut run = vec!["/opt/undo".to_owned()];
        run.extend(written.iter().map(|it| (*it).to_owned()));
        spec.program.as_mut().unwrap().run = run;
        let rejection = Rejection {
            key: JobKey::from("key".to_owned()),
            pipeline: pipeline(name),
            execution_id: "11-22".to_owned(),
            action_execution_id: None,
            stage: "-Gate".to_owned(),
            action: "--Review".to_owned(),
            as_of: Timestamp::UNIX_EPOCH,
            as_of_uncertainty: std::time::Duration::ZERO,
            rejected_at: Timestamp::UNIX_EPOCH,
            comment: None,
        };
        let targets = Targets::new(&[spec], at_home()).unwrap();
        let target = targets.resolve(&rejection.pipeline, "-Gate", "--Review");
        let target = target.unwrap();
        let program = target.program.as_ref().unwrap();
        let found = program.arguments(&rejection);
        assert_eq!(target.argument_fault(&rejection), found.clone().err());
        (
            found.map_err(|fault| fault.to_string()),
            program.fault_of(name).is_some(),
        )
    };
    let name = "--profile-x-pipeline";
    let (found, by_name) = arguments(&["x", "{pipeline}"], name);
    assert_eq!(
        found.unwrap_err(),
        "run[2], \"{pipeline}\", comes to \"--profile-x-pipeline\", which the program would take for an \
         option; begin the argument with a text of its own, such as \"--name={pipeline}\", or give the \
         pipeline a target of its own"
    );
    assert!(by_name);
    // A capture of the name, the stage, the action; whatever follows.
    for (written, of_the_name) in [
        ("{first}", true),
        ("{first}: undone", true),
        ("{stage}", false),
        ("{action} of {last}", false),
    ] {
        let (found, by_name) = arguments(&[written], name);
        assert!(found.is_err(), "{written}");
        assert_eq!(by_name, of_the_name, "{written}");
    }
    // What the configuration says itself, and what stands behind that.
    let written = [
        "--name={pipeline}",
        "-{stage}",
        "-",
        "{last}",
        "{execution_id}",
        "",
    ];
    let (found, by_name) = arguments(&written, name);
    let expected = [
        "--name=--profile-x-pipeline",
        "--Gate",
        "-",
        "pipeline",
        "11-22",
        "",
    ];
    assert_eq!(found.unwrap(), expected);
    assert!(!by_name);
    assert!(arguments(&["{pipeline}"], "profile-x-pipeline").0.is_ok());
}
