use super::*;

mod targets;

const GOOD: &str = r#"
[queue]
url = "https://sqs.ap-northeast-1.amazonaws.com/012345678901/stagesweep"

[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"#;

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, Faults> {
    Config::parse(Path::new("c.toml"), text, &env(variables))
}

/// The faults as displayed; none if the configuration is valid.
fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match parse(text, variables) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn the_least_file_gets_the_defaults() {
    let config = parse(GOOD, &[]).unwrap();
    assert_eq!(config.queue.account.as_deref(), Some("012345678901"));
    assert_eq!(config.queue.region.as_deref(), Some("ap-northeast-1"));
    assert_eq!(config.targets.len(), 1);
    assert!(config.allows_account("012345678901"));
    assert!(!config.allows_account("12345678901"));
    let defaults: Vec<String> = config.settings()[1..]
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        defaults,
        [
            "queue.wait_time=20s",
            "queue.visibility_timeout=2m",
            "queue.heartbeat_interval=1m",
            "queue.max_in_flight=64",
            "cleanup.mode=act",
            "cleanup.delay=0s",
            "cleanup.poll_interval_min=2s",
            "cleanup.poll_interval_max=15s",
            "cleanup.propagation_timeout=1h 30m",
            "retry.initial_backoff=5s",
            "retry.max_backoff=10m",
            "shutdown.grace_period=25s",
            "ledger.backend=embedded",
            "ledger.path=/var/lib/stagesweep/ledger.db",
            "ledger.table=",
            "health.socket=",
            "events.allowed_accounts=",
            "verify.codepipeline=true",
            "verify.on_timeout=clean",
            "verify.grace=2s",
            "catch_up.interval=0s",
            "catch_up.reclaim=false",
            "notify.event_bus=",
            "notify.source=stagesweep",
            "notify.program=",
            "telemetry.log_format=auto",
            "telemetry.log_level=info",
            "telemetry.metrics_namespace=Stagesweep",
            "telemetry.metrics_interval=1m",
            "telemetry.metrics_sink=stdout",
            "telemetry.metrics_format=emf",
            "telemetry.metrics_detail=basic",
            "telemetry.metrics_log_group=/stagesweep/stagesweep",
        ]
    );
}

#[test]
fn every_fault_of_a_bad_file_is_reported_at_its_place() {
    let text = r#"
[queue]
url = "sqs://queue"
wait_time = "25s"
visibility_timeout = 120
heartbeat_intervall = "1m"
max_in_flight = "64"

[cleanup]
poll_interval_max = "1s"

[telemetry]
log_level = "inof"
metrics_namespace = "AWS/Mine"

[events]
allowed_accounts = ["012345678901", 123456789012, true, "12345", "a"]

[verify]
codepipeline = "yes"

[[targets]]
pipeline = "{service}-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{svc}/production"
staging_parameter = "/{service}/staging"
role_arn = "arn:aws:iam::123456789012:user/x"
external_id = 5
regions = "us-east-1"

[[targets]]
pipeline = "batch"
stage = 5
action = "Approve it"
production_parameter = "/a/{b}"
"#;
    let variables = [
        ("STAGESWEEP__RETRY__INITIAL_BACKOFF", "1h"),
        ("STAGESWEEP__QUEUE__WAITTIME", "20s"),
        ("STAGESWEEP__TARGETS__0__STAGE", "x"),
    ];
    let expected = [
        r#"c.toml:3:7: queue.url: "sqs://queue" is not an http or https URL; expected for instance "https://sqs.us-east-1.amazonaws.com/123456789012/my-queue""#,
        r#"c.toml:4:13: queue.wait_time: "25s" is longer than SQS's maximum of 20s"#,
        r#"c.toml:5:22: queue.visibility_timeout: 120 is a number without a unit; write a duration in quotes, such as "120s""#,
        r#"c.toml:6:1: queue.heartbeat_intervall: there is no such key; did you mean queue.heartbeat_interval?"#,
        r#"c.toml:7:17: queue.max_in_flight: found "64" (a string); expected a whole number, without quotes"#,
        r#"c.toml:10:21: cleanup.poll_interval_max: cleanup.poll_interval_min ("2s", the default) is longer than cleanup.poll_interval_max ("1s"): the interval grows from the one to the other"#,
        r#"c.toml:13:13: telemetry.log_level: "inof" has the level "inof"; expected error, warn, info, debug, trace or off, or target=level"#,
        r#"c.toml:14:21: telemetry.metrics_namespace: "AWS/Mine" must begin neither with : nor with AWS/, which CloudWatch keeps"#,
        r#"c.toml:17:37: events.allowed_accounts: 123456789012 is a number; write it in quotes, "123456789012", so that leading zeros stay"#,
        r#"c.toml:17:51: events.allowed_accounts: found true (a boolean); expected text in quotes"#,
        r#"c.toml:17:57: events.allowed_accounts: "12345" is not an account id; expected twelve digits"#,
        r#"c.toml:17:66: events.allowed_accounts: "a" is not an account id; expected twelve digits"#,
        r#"c.toml:20:16: verify.codepipeline: found "yes" (a string); expected true or false, without quotes"#,
        r#"c.toml:26:24: targets[0].production_parameter: "/{svc}/production" uses the capture {svc}, which `pipeline` does not have (there are {service}, {account}, {region})"#,
        r#"c.toml:28:12: targets[0].role_arn: "arn:aws:iam::123456789012:user/x" is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME"#,
        r#"c.toml:29:15: targets[0].external_id: found 5 (an integer); expected text in quotes"#,
        r#"c.toml:30:1: targets[0].regions: there is no such key; did you mean region?"#,
        r#"c.toml:32:1: targets[1].staging_parameter: is missing; a target that cleans needs both parameters, one that does not needs `run`"#,
        r#"c.toml:34:9: targets[1].stage: found 5 (an integer); expected text in quotes"#,
        r#"c.toml:35:10: targets[1].action: "Approve it" contains ' '; a name has letters, digits and . @ - _ only"#,
        r#"c.toml:36:24: targets[1].production_parameter: "/a/{b}" uses the capture {b}, which `pipeline` does not have (there are {account}, {region})"#,
        r#"STAGESWEEP__QUEUE__WAITTIME: queue.waittime: there is no such key; did you mean STAGESWEEP__QUEUE__WAIT_TIME?"#,
        r#"STAGESWEEP__TARGETS__0__STAGE: targets.0.stage: targets can be set in the file only"#,
        r#"STAGESWEEP__RETRY__INITIAL_BACKOFF: retry.initial_backoff: retry.initial_backoff ("1h") is longer than retry.max_backoff ("10m", the default): the backoff grows from the one to the other"#,
    ];
    let found = faults(text, &variables);
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

#[test]
fn what_is_missing_is_said_of_the_file() {
    assert_eq!(
        faults("", &[]),
        [
            "c.toml: queue.url: is missing; set it here or with STAGESWEEP__QUEUE__URL",
            "c.toml: targets: there is none; add at least one [[targets]] table",
        ]
    );
    let missing = Config::load(Path::new("/nowhere/c.toml"), &env(&[])).unwrap_err();
    let missing = missing.to_string();
    assert!(
        missing.starts_with(
            "/nowhere/c.toml: no configuration: the file does not exist; give --config"
        ),
        "{missing}"
    );
}

#[test]
fn a_file_that_is_no_toml_has_its_syntax_errors_only() {
    let found = faults("[queue\nurl = 'x'\n[retry]\nmax_backoff = \n", &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    let zero = faults("[events]\nallowed_accounts = [012345678901]\n", &[]);
    assert!(
        zero[0].contains("an account id is written in quotes"),
        "{zero:#?}"
    );
    assert!(
        found[0].starts_with("c.toml:1:7: not valid TOML: "),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("c.toml:4:15: not valid TOML: "),
        "{found:#?}"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = parse(
        &GOOD.replace("[queue]", "[queue]\nwait_time = \"5s\"\nmax_in_flight = 3"),
        &[
            ("STAGESWEEP__QUEUE__WAIT_TIME", "1s"),
            ("stagesweep__queue__max_in_flight", "9"),
            (
                "STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS",
                "001234567890, 012345678901",
            ),
            // Not ours to judge.
            ("STAGESWEEP_CONFIG", "/elsewhere.toml"),
            ("STAGESWEEP_QUEUE_COLOUR", "red"),
            ("STAGESWEEP", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.queue.wait_time, Duration::from_secs(1));
    assert_eq!(config.queue.max_in_flight, 9);
    assert_eq!(
        config.events.allowed_accounts,
        BTreeSet::from(["001234567890".to_owned(), "012345678901".to_owned()])
    );
    let emptied = parse(
        &format!("{GOOD}\n[events]\nallowed_accounts = [\"001234567890\"]"),
        &[("STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS", "")],
    );
    assert!(emptied.unwrap().events.allowed_accounts.is_empty());
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    let variables = [
        ("STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS", "012345678901,12345"),
        ("STAGESWEEP__LEDGER__BACKEND", "dynamo"),
        ("STAGESWEEP__LEDGER__TABEL", "t"),
        ("STAGESWEEP__QUEUE", "x"),
        ("STAGESWEEP__QUEUE__MAX_IN_FLIGHT", "many"),
        ("STAGESWEEP__QUEUE__WAIT_TIME", "20"),
        ("STAGESWEEP__VERIFY__CODEPIPELINE", "yes"),
        ("Stagesweep__queue__wait_time", "20s"),
    ];
    let found = faults(GOOD, &variables);
    let expected = [
        r#"STAGESWEEP__LEDGER__TABEL: ledger.tabel: there is no such key; did you mean STAGESWEEP__LEDGER__TABLE?"#,
        r#"STAGESWEEP__QUEUE: queue: there is no such key"#,
        r#"STAGESWEEP__QUEUE__MAX_IN_FLIGHT: queue.max_in_flight: "many" is not a whole number"#,
        r#"STAGESWEEP__VERIFY__CODEPIPELINE: verify.codepipeline: "yes" is neither true nor false"#,
        r#"Stagesweep__queue__wait_time: queue.wait_time: is set by STAGESWEEP__QUEUE__WAIT_TIME as well; case makes no difference"#,
        r#"STAGESWEEP__QUEUE__WAIT_TIME: queue.wait_time: "20" has no unit; write for instance "20s""#,
        r#"STAGESWEEP__LEDGER__BACKEND: ledger.backend: "dynamo" is unknown; expected "embedded" or "dynamodb""#,
        r#"STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS: events.allowed_accounts: "12345" is not an account id; expected twelve digits"#,
    ];
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

#[test]
fn a_queue_without_an_account_needs_allowed_ones() {
    let local = GOOD.replace(
        "https://sqs.ap-northeast-1.amazonaws.com/012345678901/stagesweep",
        "http://127.0.0.1:9324/queue/stagesweep",
    );
    assert_eq!(
        faults(&local, &[]),
        [
            "default: events.allowed_accounts: is empty, and queue.url names no account: no \
             event could ever be accepted; list the accounts that events may come from"
        ]
    );
    let allowed = [("STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS", "000000000000")];
    let config = parse(&local, &allowed).unwrap();
    assert_eq!((config.queue.account, config.queue.region), (None, None));
}

#[test]
fn only_codepipeline_tells_that_an_approval_timed_out() {
    let ignore = ("STAGESWEEP__VERIFY__ON_TIMEOUT", "ignore");
    let unasked = ("STAGESWEEP__VERIFY__CODEPIPELINE", "false");
    assert_eq!(
        faults(GOOD, &[ignore, unasked]),
        [
            "STAGESWEEP__VERIFY__ON_TIMEOUT: verify.on_timeout: verify.on_timeout (\"ignore\") means \
             nothing with verify.codepipeline (\"false\"): only CodePipeline can tell that an approval \
             timed out"
        ]
    );
    let config = parse(GOOD, &[ignore]).unwrap();
    assert!(config.verify.codepipeline);
    assert_eq!(config.verify.on_timeout, OnTimeout::Ignore);
}

#[test]
fn bounds_hold_at_both_ends() {
    for (variable, good, bad) in [
        ("QUEUE__WAIT_TIME", "0s", "21s"),
        ("QUEUE__WAIT_TIME", "20s", "1500ms"),
        ("QUEUE__VISIBILITY_TIMEOUT", "80s", "79s"),
        ("QUEUE__VISIBILITY_TIMEOUT", "12h", "12h 1s"),
        ("QUEUE__HEARTBEAT_INTERVAL", "90s", "91s"),
        ("QUEUE__HEARTBEAT_INTERVAL", "10ms", "0s"),
        ("QUEUE__MAX_IN_FLIGHT", "1", "0"),
        ("QUEUE__MAX_IN_FLIGHT", "1000", "1001"),
        ("CLEANUP__POLL_INTERVAL_MIN", "1ms", "0ms"),
        ("CLEANUP__POLL_INTERVAL_MIN", "15s", "16s"),
        ("CLEANUP__PROPAGATION_TIMEOUT", "15s", "14s"),
        ("RETRY__MAX_BACKOFF", "12h", "13h"),
        ("RETRY__MAX_BACKOFF", "5s", "4s"),
        ("SHUTDOWN__GRACE_PERIOD", "0s", "2h"),
        ("LEDGER__PATH", "ledger.db", "/var/lib/"),
        ("CATCH_UP__INTERVAL", "24h", "25h"),
        ("CATCH_UP__RECLAIM", "false", "true"),
        ("TELEMETRY__LOG_FORMAT", "pretty", "text"),
        (
            "TELEMETRY__LOG_LEVEL",
            "warn,stagesweep=debug",
            "info,stagesweep=loud",
        ),
        ("TELEMETRY__LOG_LEVEL", "off", ""),
        ("TELEMETRY__METRICS_NAMESPACE", "My/Name space", "Ünï"),
        ("TELEMETRY__METRICS_INTERVAL", "100ms", "10ms"),
    ] {
        let name = format!("STAGESWEEP__{variable}");
        assert_eq!(faults(GOOD, &[(&name, good)]), [""; 0], "{variable}={good}");
        let found = faults(GOOD, &[(&name, bad)]);
        assert_eq!(found.len(), 1, "{variable}={bad}: {found:#?}");
        assert!(found[0].starts_with(&name), "{found:#?}");
    }
}

#[test]
fn every_choice_is_taken_and_shown_again() {
    let table = ("STAGESWEEP__LEDGER__TABLE", "table");
    for (key, rule) in keys::KEYS {
        let keys::Rule::Choice(choices) = rule else {
            continue;
        };
        for choice in choices {
            let config = parse(GOOD, &[(&keys::variable(key), choice), table]).unwrap();
            assert!(
                config.settings().contains(&(key, (*choice).to_owned())),
                "{key}"
            );
        }
    }
}

#[test]
fn a_queues_arn_is_answered_with_its_url() {
    let arn = "arn:aws-cn:sqs:cn-north-1:012345678901:stagesweep";
    let found = faults(GOOD, &[("STAGESWEEP__QUEUE__URL", arn)]);
    let url = "https://sqs.cn-north-1.amazonaws.com.cn/012345678901/stagesweep";
    let expected = format!(
        "STAGESWEEP__QUEUE__URL: queue.url: {arn:?} is the queue's ARN; its URL is {url:?}"
    );
    assert_eq!(found, [expected]);
}

#[test]
fn a_reload_takes_targets_and_the_log_level_only() {
    let old = parse(GOOD, &[]).unwrap();
    let text = GOOD.replace("\"Approve\"", "\"Review\"");
    let new = parse(&text, &[("STAGESWEEP__TELEMETRY__LOG_LEVEL", "debug")]).unwrap();
    assert_ne!(old, new);
    assert_eq!(old.restart_required(&new), [""; 0]);
    let [mode, delay] = ["STAGESWEEP__CLEANUP__MODE", "STAGESWEEP__CLEANUP__DELAY"];
    let new = parse(GOOD, &[(mode, "observe"), (delay, "1h")]).unwrap();
    assert_eq!(old.restart_required(&new), [""; 0]);
    let new = parse(
        GOOD,
        &[
            ("STAGESWEEP__QUEUE__WAIT_TIME", "1s"),
            ("STAGESWEEP__LEDGER__PATH", "another.db"),
        ],
    );
    assert_eq!(
        old.restart_required(&new.unwrap()),
        ["queue.wait_time", "ledger.path"]
    );
}

#[test]
fn the_path_comes_from_the_flag_then_the_environment() {
    let named = env(&[(PATH_VARIABLE, "/env.toml")]);
    assert_eq!(
        path(Some(Path::new("/flag.toml")), &named),
        Path::new("/flag.toml")
    );
    assert_eq!(path(None, &named), Path::new("/env.toml"));
    assert_eq!(
        path(None, &env(&[(PATH_VARIABLE, "")])),
        Path::new(DEFAULT_PATH)
    );
    let both = env(&[(PATH_VARIABLE, "/env.toml"), (TEXT_VARIABLE, GOOD)]);
    assert_eq!(path(None, &both), Path::new("/env.toml"));
}

#[test]
fn the_environment_can_hold_the_whole_file() {
    let good = env(&[
        (TEXT_VARIABLE, GOOD),
        ("STAGESWEEP__QUEUE__WAIT_TIME", "7s"),
    ]);
    let config = Config::load(&path(None, &good), &good).unwrap();
    assert_eq!(config.queue.wait_time, Duration::from_secs(7));
    let bad = env(&[(TEXT_VARIABLE, "\n[queue]\nurll = 1\n")]);
    let faults = Config::load(&path(None, &bad), &bad).unwrap_err();
    let faults = faults.to_string();
    assert!(
        faults.starts_with("STAGESWEEP_CONFIG_TOML:3:1: queue.urll: "),
        "{faults}"
    );
    let none = env(&[(TEXT_VARIABLE, "")]);
    assert_eq!(path(None, &none), Path::new(DEFAULT_PATH));
}

#[test]
fn a_sink_of_metrics_is_stdout_a_file_or_an_address() {
    let sink = |text| {
        let config = parse(GOOD, &[("STAGESWEEP__TELEMETRY__METRICS_SINK", text)]);
        config.map(|config| config.telemetry.metrics_sink).ok()
    };
    let file = |path: &str| Some(MetricsSink::File(path.into()));
    let tcp = |address: &str| Some(MetricsSink::Tcp(address.to_owned()));
    assert_eq!(sink("stdout"), Some(MetricsSink::Stdout));
    assert_eq!(sink("file:///var/log/m.log"), file("/var/log/m.log"));
    assert_eq!(sink("file:/var/log/m.log"), file("/var/log/m.log"));
    assert_eq!(sink("tcp://127.0.0.1:25888"), tcp("127.0.0.1:25888"));
    assert_eq!(sink("tcp://[::1]:25888"), tcp("[::1]:25888"));
    for bad in [
        "",
        "stderr",
        "file",
        "file://",
        "file:m.log",
        "file://m.log",
        "file:///var/log/",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://:25888",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:99999",
        "tcp://a@b:1",
        "tcp://127.0.0.1:25888/",
        "udp://127.0.0.1:25888",
    ] {
        assert_eq!(sink(bad), None, "{bad}");
    }
}

#[test]
fn who_is_told_is_named_in_one_of_few_ways() {
    let told = |lines: &str| parse(&format!("{GOOD}\n[notify]\n{lines}"), &[]);
    let bus = |bus: &str| told(&format!("event_bus = {bus:?}")).map(|it| it.notify);
    let region = |name: &str| bus(name).unwrap().region().map(str::to_owned);
    assert_eq!(region("default"), None);
    assert_eq!(region("teams/releases"), None);
    let arn = "arn:aws:events:eu-west-1:012345678901:event-bus/releases";
    assert_eq!(region(arn).as_deref(), Some("eu-west-1"));
    for bad in [
        "two words",
        "arn:aws:events:eu-west-1:012345678901:rule/releases",
        "arn:aws:events:eu-west-1:1:event-bus/releases",
        "arn:aws:sqs:eu-west-1:012345678901:releases",
    ] {
        assert!(bus(bad).is_err(), "{bad}");
    }
    assert!(told("source = \"aws.codepipeline\"").is_err());
    assert!(told("source = \"\"").is_err());
    let program = told("program = [\"/usr/local/bin/tell\", \"--loud\"]").unwrap();
    assert_eq!(program.notify.program, ["/usr/local/bin/tell", "--loud"]);
    let faults = told("program = [\"tell\", 5, \"a\\u0000\", \"\\u0000\"]").unwrap_err();
    let faults: Vec<String> = faults.to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        faults,
        [
            r#"c.toml:13:12: notify.program: "tell" is not an absolute path"#,
            r#"c.toml:13:20: notify.program: 5 is a number; write it in quotes, "5", so that leading zeros stay"#,
            r#"c.toml:13:23: notify.program: "a\0" has a zero byte"#,
            r#"c.toml:13:34: notify.program: "\0" has a zero byte"#,
        ]
    );
    let variables = [("STAGESWEEP__NOTIFY__PROGRAM", "/bin/tell, -x")];
    let config = parse(GOOD, &variables).unwrap();
    assert_eq!(config.notify.program, ["/bin/tell", "-x"]);
}

#[test]
fn keys_defaults_settings_and_documentation_agree() {
    let known: BTreeSet<String> = keys::KEYS
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect();
    let mut defaults: BTreeSet<String> = BTreeSet::from(["queue.url".to_owned()]);
    for (section, table) in layers::DEFAULTS.parse::<toml::Table>().unwrap() {
        let names = table.as_table().unwrap().keys();
        defaults.extend(names.map(|name| format!("{section}.{name}")));
    }
    let settings = parse(GOOD, &[]).unwrap().settings();
    let settings: BTreeSet<String> = settings.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(known, defaults);
    assert_eq!(known, settings);

    let documentation = include_str!("../../docs/CONFIGURATION.md");
    for key in &known {
        let row = format!("| `{}` |", key.split_once('.').unwrap().1);
        let variable = format!("`{}`", keys::variable(key));
        assert!(documentation.contains(&row), "{key} is not documented");
        assert!(
            documentation.contains(&variable),
            "{variable} is not documented"
        );
    }
    for (key, _) in keys::TARGET_KEYS {
        assert!(
            documentation.contains(&format!("| `{key}` |")),
            "{key} is not documented"
        );
    }
}

#[test]
fn the_example_is_valid_and_spells_every_key() {
    let text = include_str!("../../config/example.toml");
    let config = parse(text, &[]).unwrap();
    assert!(config.targets.len() > 1);
    let example: toml::Table = text.parse().unwrap();
    for (key, _) in keys::KEYS {
        let (section, name) = keys::parts(key);
        assert!(example[section].get(name).is_some(), "{key}");
    }
}
