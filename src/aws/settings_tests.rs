use super::*;

fn read(env: &[(&str, &str)]) -> Result<Settings, Misconfigured> {
    Settings::read(&Asked::default(), Env::from_slice(env))
}

/// Settings of a profile's file.
fn of_profile(config: &str, env: &[(&str, &str)]) -> Settings {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap();
    let mut all = vec![("AWS_CONFIG_FILE", path)];
    all.extend(env);
    read(&all).unwrap()
}

fn said(value: &str, from: &str) -> Option<Said> {
    Some(Said {
        value: value.to_owned(),
        from: from.to_owned(),
    })
}

#[test]
fn a_value_comes_from_the_command_line_then_the_environment_then_the_profile() {
    let config = "[default]\nregion = eu-west-1\n[profile other]\nregion = eu-west-2\n";
    let of = |env: &[(&str, &str)]| of_profile(config, env).region();
    assert_eq!(
        of(&[]),
        said("eu-west-1", "region of the profile \"default\"")
    );
    let other = ("AWS_PROFILE", "other");
    assert_eq!(
        of(&[other]),
        said("eu-west-2", "region of the profile \"other\"")
    );
    let legacy = ("AWS_DEFAULT_REGION", "eu-north-1");
    assert_eq!(
        of(&[other, legacy]),
        said("eu-north-1", "AWS_DEFAULT_REGION")
    );
    let region = ("AWS_REGION", "eu-west-3");
    assert_eq!(
        of(&[other, legacy, region]),
        said("eu-west-3", "AWS_REGION")
    );
    let asked = Asked {
        region: Some("us-east-1".to_owned()),
        ..Asked::default()
    };
    let settings = Settings::read(&asked, Env::from_slice(&[region])).unwrap();
    assert_eq!(settings.region(), said("us-east-1", "--region"));
}

#[test]
fn an_endpoint_is_that_of_the_service_or_of_all() {
    let config = "[default]\nendpoint_url = http://all\nservices = own\n\
                  [services own]\nsqs =\n  endpoint_url = http://sqs\n";
    let settings = of_profile(config, &[]);
    let of_all = said("http://all", "endpoint_url of the profile \"default\"");
    assert_eq!(settings.endpoint("SSM"), of_all);
    let of_sqs = said("http://sqs", "services of the profile \"default\"");
    assert_eq!(settings.endpoint("SQS"), of_sqs);
    let env = [
        ("AWS_ENDPOINT_URL", "http://env"),
        ("AWS_ENDPOINT_URL_STS", "http://sts"),
    ];
    let settings = read(&env).unwrap();
    assert_eq!(
        settings.endpoint("SSM"),
        said("http://env", "AWS_ENDPOINT_URL")
    );
    assert_eq!(
        settings.endpoint("STS"),
        said("http://sts", "AWS_ENDPOINT_URL_STS")
    );
    let ignored = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
    let settings = read(&[env[0], ignored]).unwrap();
    assert_eq!(settings.endpoint("SSM"), None);
}

#[test]
fn an_endpoint_together_with_fips_or_dual_stack_cannot_be() {
    let fips = ("AWS_USE_FIPS_ENDPOINT", "true");
    let dual = ("AWS_USE_DUALSTACK_ENDPOINT", "true");
    let endpoint = ("AWS_ENDPOINT_URL_SQS", "http://sqs");
    for sound in [&[fips, dual][..], &[endpoint][..]] {
        assert_eq!(read(sound).unwrap().check(), Ok(()), "{sound:?}");
    }
    for (switch, what) in [(fips, "FIPS"), (dual, "dual-stack")] {
        let wrong = read(&[switch, endpoint]).unwrap().check().unwrap_err();
        let text = wrong.to_string();
        for part in [switch.0, endpoint.0, endpoint.1, what] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let off = read(&[("AWS_USE_FIPS_ENDPOINT", "false"), endpoint]).unwrap();
    assert_eq!(off.check(), Ok(()));
}

#[test]
fn proxies_are_shown_without_passwords_and_must_be_urls() {
    let env = [
        ("HTTPS_PROXY", "http://kim:secret@proxy:3128"),
        ("http_proxy", "proxy:3128"),
        ("no_proxy", "10.0.0.0/8"),
    ];
    let settings = read(&env).unwrap();
    let shown: Vec<_> = settings.proxies().iter().map(Said::to_string).collect();
    assert_eq!(
        shown,
        [
            "http://…@proxy:3128 (HTTPS_PROXY)",
            "proxy:3128 (http_proxy)",
            "10.0.0.0/8 (no_proxy)",
        ]
    );
    assert_eq!(settings.check(), Ok(()));
    for wrong in ["socks5://proxy:1080", "http://", "proxy:port"] {
        let settings = read(&[("HTTPS_PROXY", wrong)]).unwrap();
        let text = settings.check().unwrap_err().to_string();
        assert!(
            text.contains("HTTPS_PROXY") && text.contains(wrong),
            "{text}"
        );
    }
    // Nothing is exempt from nothing.
    assert!(read(&[("NO_PROXY", "*")]).unwrap().proxies().is_empty());
}

#[test]
fn the_authorities_are_those_of_the_bundle_then_the_profile_then_the_machine() {
    let config = "[default]\nca_bundle = ~/corp.pem\n";
    let home = ("HOME", "/home/kim");
    let of = |env: &[(&str, &str)]| of_profile(config, env).authorities().to_string();
    let machine = ("SSL_CERT_FILE", "/etc/ca.pem");
    let bundle = ("AWS_CA_BUNDLE", "/etc/aws.pem");
    let of_key = "/home/kim/corp.pem (ca_bundle of the profile \"default\")";
    assert_eq!(of(&[home, machine]), of_key);
    assert_eq!(of(&[home, machine, bundle]), "/etc/aws.pem (AWS_CA_BUNDLE)");
    let of = |env: &[(&str, &str)]| read(env).unwrap().authorities().to_string();
    assert_eq!(of(&[machine]), "/etc/ca.pem (SSL_CERT_FILE)");
    assert_eq!(of(&[("SSL_CERT_DIR", "/etc/ca")]), "/etc/ca (SSL_CERT_DIR)");
    assert_eq!(of(&[]), "the machine's own");
}

#[test]
fn a_profile_that_is_not_there_is_named_with_those_that_are() {
    let settings = read(&[("AWS_PROFILE", "prod")]).unwrap();
    assert_eq!(settings.profile(), None);
    let wrong = settings.check().unwrap_err().to_string();
    assert!(
        wrong.contains("\"prod\"") && wrong.contains("AWS_PROFILE"),
        "{wrong}"
    );
    assert!(wrong.contains("there is none in ~/.aws/config"), "{wrong}");
}
