//! The entries under `targets`.

use super::*;

#[test]
fn overlapping_targets_are_a_fault_of_the_later_one() {
    // An entry that is faulty itself does not shift the numbers of the others.
    let text = format!(
        "{GOOD}\n[[targets]]\nstage = 1\n{}",
        GOOD.split_once("\n\n")
            .unwrap()
            .1
            .replace("{service}-", "shop-")
            .replace("{service}", "x")
    );
    let found = faults(&text, &[]);
    assert_eq!(
        found.last().unwrap(),
        "c.toml:15:12: targets[2].pipeline: \"shop-frontend-pipeline\" overlaps the target \
         \"{service}-frontend-pipeline\" at line 5: both match pipeline \"shop-frontend-pipeline\" at \
         the same stage and action; remove one, or give it a stage or an action of its own"
    );
}

#[test]
fn a_targets_own_delay_comes_before_that_for_all() {
    let delays = |text: &str, variables: &[(&str, &str)]| {
        let config = parse(text, variables).unwrap();
        config.targets.iter().map(|it| it.delay().as_secs()).sum()
    };
    let for_all = [("STAGESWEEP__CLEANUP__DELAY", "6h")];
    let own = format!("{GOOD}delay = \"90s\"\n");
    let found: [u64; 4] = [
        delays(GOOD, &[]),
        delays(GOOD, &for_all),
        delays(&own, &[]),
        delays(&own, &for_all),
    ];
    assert_eq!(found, [0, 6 * 60 * 60, 90, 90]);
    let long = format!("{GOOD}delay = \"7h\"\n");
    assert_eq!(
        faults(&long, &[("STAGESWEEP__CLEANUP__DELAY", "361m")]),
        [
            r#"c.toml:11:9: targets[0].delay: "7h" is longer than the maximum of 6h"#,
            r#"STAGESWEEP__CLEANUP__DELAY: cleanup.delay: "361m" is longer than the maximum of 6h"#,
        ]
    );
}

#[test]
fn a_targets_own_mode_comes_before_that_for_all() {
    let mode =
        |text: &str, variables: &[(&str, &str)]| parse(text, variables).unwrap().targets.mode();
    let for_all = [("STAGESWEEP__CLEANUP__MODE", "observe")];
    let [act, observe] = ["act", "observe"].map(|own| format!("{GOOD}mode = \"{own}\"\n"));
    assert_eq!(mode(GOOD, &[]), "act");
    assert_eq!(mode(GOOD, &for_all), "observe");
    assert_eq!(mode(&act, &for_all), "act");
    assert_eq!(mode(&observe, &[]), "observe");
    let other = GOOD
        .split_once("[[targets]]")
        .unwrap()
        .1
        .replace("-frontend", "-backend");
    assert_eq!(mode(&format!("{observe}[[targets]]{other}"), &[]), "mixed");
    let wrong = format!("{GOOD}mode = \"dry-run\"\n");
    assert_eq!(
        faults(&wrong, &[("STAGESWEEP__CLEANUP__MODE", "")]),
        [
            r#"c.toml:11:8: targets[0].mode: "dry-run" is unknown; expected "act" or "observe""#,
            r#"STAGESWEEP__CLEANUP__MODE: cleanup.mode: "" is unknown; expected "act" or "observe""#,
        ]
    );
}

#[test]
fn a_target_may_run_a_program() {
    let text = r#"
[queue]
url = "https://sqs.us-east-1.amazonaws.com/123456789012/stagesweep"
[[targets]]
pipeline = "batch-pipeline"
run = ["/usr/local/bin/undo-batch", "--execution", "{execution_id}"]
timeout = "90s"
retry_on = [1, 2]
pass_environment = ["AWS_REGION"]
"#;
    let config = parse(text, &[]).unwrap();
    let target = config.targets.iter().next().unwrap();
    assert_eq!(
        target.to_string(),
        "batch-pipeline / any stage / any approval"
    );
    let program = target.program().unwrap();
    assert_eq!(
        program.to_string(),
        "/usr/local/bin/undo-batch --execution {execution_id}"
    );
    assert_eq!(program.timeout, Duration::from_secs(90));

    let bad = r#"
[queue]
url = "https://sqs.us-east-1.amazonaws.com/123456789012/stagesweep"
[[targets]]
pipeline = "a"
run = "/bin/true"
timeout = 5
[[targets]]
pipeline = "b"
run = ["undo", 5]
timeout = "12h"
retry_on = [1, "2"]
[[targets]]
pipeline = "c"
run = ["undo"]
timeout = "0s"
[[targets]]
pipeline = "d"
timeout = "1m"
retry_on = 3
[[targets]]
run = ["/bin/true"]
[[targets]]
pipeline = "f"
run = ["/opt/{x}", "{x}", "{y}"]
pass_environment = ["HOME", "1X", 5, "A=B"]
retry_on = [0, 7, "8", 256]
[[targets]]
pipeline = "g"
role_arn = "me"
"#;
    let found = faults(bad, &[]);
    let expected = [
        r#"c.toml:6:7: targets[0].run: found "/bin/true" (a string); expected a list of texts: ["…"]"#,
        r#"c.toml:7:11: targets[0].timeout: 5 is a number without a unit; write a duration in quotes, such as "5s""#,
        r#"c.toml:10:8: targets[1].run: "undo" is not an absolute path, such as "/usr/local/bin/undo""#,
        r#"c.toml:10:16: targets[1].run: 5 is a number; write it in quotes, "5", so that leading zeros stay"#,
        r#"c.toml:11:11: targets[1].timeout: "12h" is longer than the maximum of 11h"#,
        r#"c.toml:12:16: targets[1].retry_on: found "2" (a string); expected a whole number"#,
        r#"c.toml:15:8: targets[2].run: "undo" is not an absolute path, such as "/usr/local/bin/undo""#,
        r#"c.toml:16:11: targets[2].timeout: "0s" must be longer than zero"#,
        r#"c.toml:17:1: targets[3]: has nothing to do; a cleanup needs stage, action, production_parameter and staging_parameter, a program needs `run`"#,
        r#"c.toml:20:12: targets[3].retry_on: found 3 (an integer); expected a list of whole numbers: [1, 2]"#,
        r#"c.toml:21:1: targets[4].pipeline: is missing; every target needs it"#,
        r#"c.toml:25:8: targets[5].run: "/opt/{x}" has braces and is the program's path; captures belong in its arguments"#,
        r#"c.toml:25:20: targets[5].run: "{x}" uses the capture {x}, which `pipeline` does not have (there are {account}, {region}, {execution_id}, {pipeline}, {stage}, {action})"#,
        r#"c.toml:25:27: targets[5].run: "{y}" uses the capture {y}, which `pipeline` does not have (there are {account}, {region}, {execution_id}, {pipeline}, {stage}, {action})"#,
        r#"c.toml:26:29: targets[5].pass_environment: "1X" is not the name of an environment variable"#,
        r#"c.toml:26:35: targets[5].pass_environment: 5 is a number; write it in quotes, "5", so that leading zeros stay"#,
        r#"c.toml:26:38: targets[5].pass_environment: "A=B" is not the name of an environment variable"#,
        r#"c.toml:27:13: targets[5].retry_on: 0 is no exit status that can ask for another try; those are 1 to 255"#,
        r#"c.toml:27:19: targets[5].retry_on: found "8" (a string); expected a whole number"#,
        r#"c.toml:27:24: targets[5].retry_on: 256 is no exit status that can ask for another try; those are 1 to 255"#,
        r#"c.toml:28:1: targets[6]: has nothing to do; a cleanup needs stage, action, production_parameter and staging_parameter, a program needs `run`"#,
        r#"c.toml:30:12: targets[6].role_arn: "me" is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME"#,
    ];
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}
