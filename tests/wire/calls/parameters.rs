//! Parameters as they are read and written.

use embedded_aws::{Action, Rule};
use serde_json::json;
use stagesweep::domain::binding::{ParameterVersion, SECURE, Slot};

use super::{SSM, deployed, overwrite};

#[tokio::test(start_paused = true)]
async fn parameters_are_read_and_written_as_documented() {
    let (rig, aws, service) = deployed();
    let (ssm, name) = (&rig.account.ssm, &service.staging_parameter);
    let current = ssm.parameter(name).await.unwrap().unwrap();
    assert_eq!((&current.value, current.version), (&service.staging_id, 2));
    let sent = rig.one(SSM);
    assert_eq!(sent.header("x-amz-target"), "AmazonSSM.GetParameter");
    assert_eq!(sent.json(), json!({ "Name": name }));

    let history = ssm.history(name).await.unwrap();
    let values: Vec<_> = history.iter().map(|it| &*it.value).collect();
    assert_eq!(values, ["dummy", &service.staging_id]);
    assert!(history[0].modified_at.unwrap() < history[1].modified_at.unwrap());
    let sent = rig.one(SSM);
    assert_eq!(sent.header("x-amz-target"), "AmazonSSM.GetParameterHistory");
    assert_eq!(sent.json(), json!({ "Name": name, "MaxResults": 50 }));

    assert_eq!(overwrite(ssm, name, "deleted").await.unwrap(), 3);
    let sent = rig.one(SSM);
    assert_eq!(sent.header("x-amz-target"), "AmazonSSM.PutParameter");
    assert_eq!(
        sent.json(),
        json!({ "Name": name, "Value": "deleted", "Overwrite": true })
    );
    assert_eq!(aws.parameter(name).unwrap(), "deleted");
    assert_eq!(ssm.parameter("/none").await.unwrap(), None);
    assert_eq!(ssm.history("/none").await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_parameter_is_written_once_whatever_becomes_of_the_answer() {
    let (rig, aws, service) = deployed();
    let name = &service.staging_parameter;
    for action in [Action::DropBefore, Action::DropAfter, Action::Throttle] {
        let rule = aws.add_rule(Rule::on("PutParameter").then(action));
        let error = overwrite(&rig.account.ssm, name, "deleted").await;
        assert!(error.unwrap_err().class.is_transient());
        assert_eq!(rig.sent(SSM).len(), 1);
        aws.remove_rule(rule);
    }
    assert_eq!(aws.parameter_history(name).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_wrote_each_version_is_read_with_it() {
    let (rig, aws, service) = deployed();
    let name = &service.staging_parameter;
    aws.put_parameter_as(name, "deleted", &aws.person("alex"));
    let changes = rig.account.ssm.changes(name).await.unwrap();
    let sent = rig.one(SSM);
    assert_eq!(sent.header("x-amz-target"), "AmazonSSM.GetParameterHistory");
    let history = aws.parameter_history(name);
    assert_eq!(changes.len(), 3);
    for (change, truth) in changes.iter().zip(&history) {
        assert_eq!(change.by.as_ref(), Some(&truth.by.arn));
        let version = ParameterVersion {
            value: truth.value.clone(),
            version: truth.version.try_into().unwrap(),
            modified_at: Some(truth.at),
        };
        assert_eq!(change.version, version);
    }
    let build = changes[1].by.as_deref().unwrap();
    assert!(build.contains(":assumed-role/"), "{build}");
    assert!(build.contains("/AWSCodeBuild-"), "{build}");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_keeps_the_tier_that_the_parameter_has() {
    let (rig, aws, service) = deployed();
    let name = &service.staging_parameter;
    aws.advance_parameter(name);
    aws.allow_in_parameter(name, "E[A-Z0-9]+|deleted");
    let (changes, form) = rig.account.ssm.kept(name).await.unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(form.tier.as_deref(), Some("Advanced"));
    assert_eq!(form.forbids("deleted"), None);
    let ssm = &rig.account.ssm;
    let turn = ssm.change_turn().await.unwrap();
    let written = ssm.overwrite(name, "deleted", &form, turn).await;
    assert_eq!(written.unwrap(), 3);
    let sent = rig.sent(SSM).pop().unwrap();
    assert_eq!(sent.json()["Tier"], json!("Advanced"));

    aws.allow_in_parameter(name, "E[A-Z0-9]+");
    let (_, form) = rig.account.ssm.kept(name).await.unwrap();
    assert_eq!(form.forbids("deleted"), Some("E[A-Z0-9]+"));
    let turn = ssm.change_turn().await.unwrap();
    let refused = ssm.overwrite(name, "deleted", &form, turn).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        refused.code.as_deref(),
        Some("ParameterPatternMismatchException")
    );
}

/// Its ciphertext stays in the client, in whatever form anything is shown later.
#[tokio::test(start_paused = true)]
async fn nothing_is_read_of_a_secure_string_but_that_it_is_one() {
    let (rig, aws, service) = deployed();
    let name = &service.staging_parameter;
    aws.secure_parameter(name);
    let ssm = &rig.account.ssm;
    let current = ssm.parameter(name).await.unwrap().unwrap();
    let history = ssm.history(name).await.unwrap();
    let changes = ssm.changes(name).await.unwrap();
    for sent in rig.sent(SSM) {
        // Nobody asks for it in plain.
        assert_ne!(sent.json()["WithDecryption"], json!(true));
    }
    assert_eq!((current.value.as_str(), current.version), (SECURE, 2));
    assert_eq!(Slot::read(&current.value), Slot::Secure);
    for versions in [
        history,
        changes.iter().map(|it| it.version.clone()).collect(),
    ] {
        let values: Vec<_> = versions.iter().map(|it| it.value.as_str()).collect();
        assert_eq!(values, [SECURE, SECURE]);
        assert!(versions[0].modified_at < versions[1].modified_at);
    }
    let all = format!("{current:?} {changes:?}");
    assert!(!all.contains("AQICAH"), "{all}");
    assert!(!all.contains(&service.staging_id), "{all}");
}
