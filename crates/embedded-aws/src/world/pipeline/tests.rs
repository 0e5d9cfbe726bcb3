//! What executions of pipelines do to the world, and what of that is to be seen.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::advance;

use crate::{
    ActionDefinition, Decision, Definition, EmbeddedAws, Mode, Pattern, Retry, Script, Service,
    Shape, Switches, Work, Writer, testing,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn world(change: impl FnOnce(&mut Switches)) -> EmbeddedAws {
    testing::world(|settings| change(&mut settings.switches))
}

fn idle(definition: Definition) -> (EmbeddedAws, Service) {
    let aws = world(|_| ());
    let shape = Shape {
        definition,
        ..Shape::default()
    };
    let service = aws.create_idle_service("shop", &shape).unwrap();
    (aws, service)
}

async fn call(aws: &EmbeddedAws, target: &str, body: Value) -> Value {
    testing::json_call(aws, target, body).await.1
}

async fn pipeline(aws: &EmbeddedAws, operation: &str, of: Option<&Service>) -> Value {
    let name = "shop-frontend-pipeline";
    let mut body = json!({ "name": name, "pipelineName": name });
    if let Some(service) = of {
        body["filter"] = json!({ "pipelineExecutionId": service.execution_id });
    }
    call(aws, &format!("CodePipeline_20150709.{operation}"), body).await
}

async fn history(aws: &EmbeddedAws, service: &Service) -> Vec<Value> {
    let body = json!({ "Name": service.staging_parameter });
    let answer = call(aws, "AmazonSSM.GetParameterHistory", body).await;
    answer["Parameters"].as_array().unwrap().clone()
}

fn status(aws: &EmbeddedAws, service: &Service) -> &'static str {
    aws.execution(service).unwrap().status
}

/// The stage that an execution runs or ran last, and the one in front of which it waits.
fn place(aws: &EmbeddedAws, service: &Service) -> (Option<String>, Option<String>) {
    let execution = aws.execution(service).unwrap();
    (execution.stage, execution.waits_before)
}

fn at(stage: &str) -> (Option<String>, Option<String>) {
    (Some(stage.to_owned()), None)
}

fn between(stage: &str, next: &str) -> (Option<String>, Option<String>) {
    (Some(stage.to_owned()), Some(next.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_played_deployment_names_its_build_as_the_writer_and_changes_staging_afterwards() {
    let (aws, service) = idle(Definition::default());
    let played = aws.play(&service, Script::default());
    advance(MINUTE * 3).await;
    let deployed = aws.current(&played);
    assert_eq!(place(&aws, &played), at("Approve"));
    let actions = pipeline(&aws, "ListActionExecutions", Some(&played)).await;
    let actions = actions["actionExecutionDetails"].as_array().unwrap();
    let stages: Vec<_> = actions.iter().map(|it| &it["stageName"]).collect();
    assert_eq!(stages, ["Approve", "Deploy", "Build", "Source"]);
    let deploy = &actions[1];
    let build = deploy["output"]["executionResult"]["externalExecutionId"].as_str();
    let (project, uuid) = build.unwrap().split_once(':').unwrap();
    assert_eq!(project, "shop-deploy");
    let versions = history(&aws, &service).await;
    let version = versions.last().unwrap();
    assert_eq!(version["Value"], json!(deployed.staging_id));
    let writer =
        format!("arn:aws:sts::123456789012:assumed-role/shop-codebuild/AWSCodeBuild-{uuid}");
    assert_eq!(version["LastModifiedUser"], json!(writer));
    // The staging distribution is modified after the parameter was written, within the action.
    let staging = aws.distribution(&deployed.staging_id).unwrap();
    let written = aws.parameter_history(&service.staging_parameter)[1].at;
    let run = aws.execution(&played).unwrap();
    let run = run.latest("Deploy").unwrap();
    assert!(run.started < written && written < staging.modified && staging.modified <= run.updated);
    assert_eq!(
        staging.modified_by.execution,
        Some(played.execution_id.clone())
    );
    assert_eq!(staging.made_by.arn, writer);
    let production = aws.distribution(&service.production_id).unwrap();
    assert_eq!(production.policy_id, deployed.policy_id);
    let state = pipeline(&aws, "GetPipelineState", None).await;
    let approval = &state["stageStates"][3]["actionStates"][0]["latestExecution"];
    assert!(approval["token"].is_string(), "{approval}");
    let revision = &state["stageStates"][0]["actionStates"][0]["currentRevision"];
    assert!(revision["revisionId"].is_string(), "{revision}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_may_be_another_build_or_none() {
    for (writer, part) in [
        (Writer::Batch, "assumed-role/shop-codebuild/AWSCodeBuild-"),
        (Writer::Deployer, "assumed-role/deployer/i-0"),
    ] {
        let aws = world(|switches| switches.writer = writer);
        let service = aws.create_service("shop").unwrap();
        let by = aws
            .parameter_history(&service.staging_parameter)
            .pop()
            .unwrap()
            .by;
        assert!(by.arn.contains(part), "{by:?}");
        assert_eq!(by.execution.as_ref(), Some(&service.execution_id));
        let run = aws.execution(&service).unwrap();
        let build = run.latest("Deploy").unwrap().build.clone().unwrap();
        assert!(!by.arn.contains(&build), "{by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_waits_at_its_approval_is_a_whole_execution() {
    let aws = world(|_| ());
    let service = aws.create_service("shop").unwrap();
    let run = aws.execution(&service).unwrap();
    let stages: Vec<_> = run.actions.iter().map(|it| it.stage.as_str()).collect();
    assert_eq!(stages, ["Source", "Build", "Deploy", "Approve"]);
    let deploy = run.latest("Deploy").unwrap();
    let version = aws
        .parameter_history(&service.staging_parameter)
        .pop()
        .unwrap();
    let staging = aws.distribution(&service.staging_id).unwrap();
    for moment in [version.at, staging.modified] {
        assert!(
            deploy.started < moment && moment < deploy.updated,
            "{moment} {deploy:?}"
        );
    }
    assert!(version.at < staging.modified);
    assert!(version.by.arn.ends_with(deploy.build.as_ref().unwrap()));
    assert_eq!(run.latest("Approve").unwrap().started, service.start_time);
    // A newer deployment is one as well.
    let newer = aws.deploy_again(&service).unwrap();
    let by = aws.distribution(&newer.staging_id).unwrap().modified_by;
    assert_eq!(by.execution, Some(newer.execution_id));
}

#[tokio::test(start_paused = true)]
async fn superseded_mode_lets_an_older_execution_wait_while_a_newer_one_deploys() {
    let aws = world(|_| ());
    let c = aws.create_service("shop").unwrap();
    let a = aws.start_execution(&c);
    let a = aws.run_to(&a, "Approve").unwrap();
    assert_eq!(place(&aws, &a), between("Deploy", "Approve"));
    let b = aws.start_execution(&c);
    aws.run_to(&b, "Deploy").unwrap();
    let b = aws.deploy(&b, Pattern::New).unwrap();
    // It replaces the one that waited.
    assert_eq!(status(&aws, &a), "Superseded");
    assert_eq!(place(&aws, &b), between("Deploy", "Approve"));
    let state = pipeline(&aws, "GetPipelineState", None).await;
    let approve = &state["stageStates"][3];
    assert_eq!(
        approve["inboundExecution"]["pipelineExecutionId"],
        json!(b.execution_id)
    );
    assert_eq!(
        approve["latestExecution"]["pipelineExecutionId"],
        json!(c.execution_id)
    );
    advance(MINUTE).await;
    aws.reject(&c).unwrap();
    assert_eq!(place(&aws, &b), at("Approve"));
    assert_eq!(aws.current(&b).start_time, aws.now());
    // While a newer one is in its deploy stage, an older one is decided upon.
    let d = aws.start_execution(&c);
    aws.run_to(&d, "Deploy").unwrap();
    let e = aws.start_execution(&c);
    aws.run_to(&e, "Deploy").unwrap();
    assert_eq!(place(&aws, &e), between("Build", "Deploy"));
    let event: Value = serde_json::from_str(&aws.reject(&b).unwrap()).unwrap();
    assert_eq!(event["detail"]["execution-id"], json!(b.execution_id));
    assert_eq!(status(&aws, &b), "Failed");
    assert_eq!(status(&aws, &d), "InProgress");
}

#[tokio::test(start_paused = true)]
async fn queued_executions_are_decided_upon_in_their_order() {
    let (aws, service) = idle(Definition::default().in_mode(Mode::Queued));
    let all = [(); 3].map(|()| aws.start_execution(&service));
    let all = all.map(|it| {
        aws.run_to(&it, "Approve").unwrap();
        aws.current(&it)
    });
    assert_eq!(place(&aws, &all[0]), at("Approve"));
    for waiting in &all[1..] {
        assert_eq!(place(&aws, waiting), between("Deploy", "Approve"));
    }
    let named = aws.parameter(&service.staging_parameter);
    assert_eq!(named.as_ref(), Some(&all[2].staging_id));
    aws.reject(&all[0]).unwrap();
    assert_eq!(place(&aws, &all[1]), at("Approve"));
    assert_eq!(place(&aws, &all[2]), between("Deploy", "Approve"));
    // A retry needs the stage to have been nobody else's since.
    let refused = aws
        .retry(&all[0], "Approve", Retry::FailedActions)
        .unwrap_err();
    assert_eq!(refused.code, "NotLatestPipelineExecutionException");
}

#[tokio::test(start_paused = true)]
async fn parallel_executions_wait_for_nobody_and_the_state_shows_one() {
    let (aws, service) = idle(Definition::default().in_mode(Mode::Parallel));
    let all = [(); 2].map(|()| aws.start_execution(&service));
    for it in &all {
        advance(SECOND).await;
        aws.run_to(it, "Approve").unwrap();
        assert_eq!(place(&aws, it), at("Approve"));
    }
    let state = pipeline(&aws, "GetPipelineState", None).await;
    let shown = &state["stageStates"][3]["latestExecution"]["pipelineExecutionId"];
    assert_eq!(*shown, json!(all[1].execution_id));
    let actions = pipeline(&aws, "ListActionExecutions", None).await;
    assert_eq!(
        actions["actionExecutionDetails"].as_array().unwrap().len(),
        8
    );
    let executions = pipeline(&aws, "ListPipelineExecutions", None).await;
    let newest = &executions["pipelineExecutionSummaries"][0];
    assert_eq!(newest["executionMode"], "PARALLEL");
    assert_eq!(newest["executionType"], "STANDARD");
    assert_eq!(newest["pipelineExecutionId"], json!(all[1].execution_id));
}

#[tokio::test(start_paused = true)]
async fn a_retried_deployment_leaves_two_distributions_of_one_execution() {
    let smoke = ActionDefinition::build("Smoke", Work::Nothing).after(2);
    let (aws, service) = idle(Definition::default().with_action("Deploy", smoke));
    let run = aws.start_execution(&service);
    aws.run_to(&run, "Deploy").unwrap();
    let first = aws.deploy(&run, Pattern::New).unwrap();
    assert_eq!(place(&aws, &run), at("Deploy"));
    aws.fail(&run);
    assert_eq!(status(&aws, &run), "Failed");
    advance(SECOND).await;
    aws.retry(&run, "Deploy", Retry::AllActions).unwrap();
    let second = aws.deploy(&run, Pattern::New).unwrap();
    assert_eq!(
        aws.execution(&run)
            .unwrap()
            .latest("Smoke")
            .unwrap()
            .attempt,
        2
    );
    aws.finish(&run);
    assert_eq!(place(&aws, &run), at("Approve"));
    assert_ne!(first.staging_id, second.staging_id);
    let builds: Vec<_> = [&first, &second]
        .map(|it| aws.distribution(&it.staging_id).unwrap().made_by)
        .into();
    assert_ne!(builds[0].arn, builds[1].arn);
    assert_eq!(builds[0].execution, builds[1].execution);
}

#[tokio::test(start_paused = true)]
async fn an_attachment_with_an_older_etag_ends_a_deployment_that_is_named_nowhere() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    let script = Script {
        pace: 10 * SECOND,
        ..Script::default()
    };
    let b = aws.play(&a, script);
    // Production is read, and changes before the attachment.
    advance(MINUTE * 2 + 5 * SECOND + 25 * SECOND).await;
    let made = aws.current(&b);
    assert!(!made.staging_id.is_empty());
    aws.edit_distribution(&a.production_id, "Comment", "edited")
        .unwrap();
    advance(MINUTE).await;
    assert_eq!(status(&aws, &b), "Failed");
    let left = aws.current(&b);
    assert!(aws.policy(&left.policy_id).unwrap().attached_to.is_empty());
    assert_eq!(aws.parameter(&a.staging_parameter), Some(a.staging_id));
    let actions = pipeline(&aws, "ListActionExecutions", Some(&b)).await;
    let failed = &actions["actionExecutionDetails"][0]["output"]["executionResult"];
    let said = failed["externalExecutionSummary"].as_str().unwrap();
    assert!(said.starts_with("PreconditionFailed"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_build_goes_on_and_writes() {
    let aws = world(|_| ());
    let older = aws.create_service("shop").unwrap();
    let abandoned = aws.play(&older, Script::default());
    advance(MINUTE * 2 + 8 * SECOND).await;
    aws.stop(&abandoned, true);
    assert_eq!(
        aws.parameter(&older.staging_parameter),
        Some(older.staging_id.clone())
    );
    advance(MINUTE).await;
    assert_eq!(status(&aws, &abandoned), "Stopped");
    let run = aws.execution(&abandoned).unwrap();
    assert_eq!(run.latest("Deploy").unwrap().status, "Abandoned");
    let written = aws
        .parameter_history(&older.staging_parameter)
        .pop()
        .unwrap();
    assert_eq!(written.value, aws.current(&abandoned).staging_id);
    assert!(written.at > run.latest("Deploy").unwrap().updated);
    assert_eq!(written.by.execution, Some(abandoned.execution_id));
}

#[tokio::test(start_paused = true)]
async fn a_promotion_copies_the_configuration_that_it_finds_when_both_are_deployed() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    let event: Value = serde_json::from_str(&aws.approve(&a).unwrap()).unwrap();
    assert_eq!(event["detail"]["state"], "SUCCEEDED");
    // In the same moment somebody detaches the policy, and disables staging when that has propagated.
    aws.edit_distribution(&a.production_id, "ContinuousDeploymentPolicyId", "")
        .unwrap();
    let done = aws.distribution(&a.production_id).unwrap().deployed_at;
    aws.wait_until(|aws| aws.now() >= done, MINUTE * 10)
        .await
        .unwrap();
    aws.delete_policy(&a.policy_id).unwrap();
    aws.edit_distribution(&a.staging_id, "Enabled", "false")
        .unwrap();
    aws.put_parameter(&a.staging_parameter, "deleted");
    advance(MINUTE * 10).await;
    assert_eq!(status(&aws, &a), "Succeeded");
    let production = aws.distribution(&a.production_id).unwrap();
    assert!(!production.enabled, "the promotion read the id before");
    assert_eq!(production.modified_by.execution, Some(a.execution_id));
    assert_eq!(production.aliases.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_promotion_gives_up_on_an_empty_slot_and_may_clean_up() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    aws.put_parameter(&a.staging_parameter, "deleted");
    aws.approve(&a).unwrap();
    assert_eq!(status(&aws, &a), "Failed");
    let script = Script {
        review: Some((MINUTE, Decision::Approved)),
        cleans: true,
        ..Script::default()
    };
    let b = aws.play(&a, script);
    advance(MINUTE * 30).await;
    assert_eq!(status(&aws, &b), "Succeeded");
    let b = aws.current(&b);
    assert!(aws.distribution(&b.staging_id).is_none());
    assert!(aws.policy(&b.policy_id).is_none());
    let last = aws.parameter_history(&a.staging_parameter).pop().unwrap();
    assert_eq!(
        (last.value.as_str(), last.by.execution),
        ("deleted", Some(b.execution_id))
    );
}

#[tokio::test(start_paused = true)]
async fn one_distribution_may_be_deployed_into_again_and_again() {
    for (pattern, versions) in [
        (Pattern::ReuseRecordedOnce, 2),
        (Pattern::ReuseRecordedAlways, 3),
    ] {
        let (aws, service) = idle(Definition::default());
        let mut runs = Vec::new();
        for _ in 0..2 {
            let run = aws.start_execution(&service);
            aws.run_to(&run, "Deploy").unwrap();
            advance(SECOND).await;
            runs.push(aws.deploy(&run, pattern).unwrap());
            if runs.len() == 1 {
                aws.approve(&runs[0]).unwrap();
                advance(MINUTE * 10).await;
                assert_eq!(status(&aws, &runs[0]), "Succeeded");
                assert!(!aws.policy(&runs[0].policy_id).unwrap().enabled);
            }
        }
        assert_eq!(runs[0].staging_id, runs[1].staging_id);
        assert_eq!(runs[0].policy_id, runs[1].policy_id);
        assert!(aws.policy(&runs[0].policy_id).unwrap().enabled);
        let staging = aws.distribution(&runs[0].staging_id).unwrap();
        assert_eq!(
            staging.made_by.execution.as_ref(),
            Some(&runs[0].execution_id)
        );
        assert_eq!(
            staging.modified_by.execution.as_ref(),
            Some(&runs[1].execution_id)
        );
        assert_eq!(
            aws.parameter_history(&service.staging_parameter).len(),
            versions
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_runs_its_stage_and_nothing_else() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    aws.reject(&a).unwrap();
    let rollback = aws.roll_back(&a, "Approve");
    assert_eq!(place(&aws, &rollback), at("Approve"));
    let executions = pipeline(&aws, "ListPipelineExecutions", None).await;
    assert_eq!(
        executions["pipelineExecutionSummaries"][0]["executionType"],
        "ROLLBACK"
    );
    aws.approve(&rollback).unwrap();
    assert_eq!(status(&aws, &rollback), "Succeeded");
    assert_eq!(aws.execution(&rollback).unwrap().actions.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_nobody_can_be_told_of_fails_by_itself() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    let event = aws.decide(&a, &Decision::Misconfigured).unwrap();
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(
        event["detail"]["execution-result"]["error-code"],
        "ConfigurationError"
    );
    let actions = pipeline(&aws, "ListActionExecutions", Some(&a)).await;
    let approval = &actions["actionExecutionDetails"][0];
    assert_eq!(approval["status"], "Failed");
    assert_eq!(approval["updatedBy"], Value::Null);
    let error = &approval["output"]["executionResult"]["errorDetails"]["code"];
    assert_eq!(*error, "ConfigurationError");
    aws.retry(&a, "Approve", Retry::FailedActions).unwrap();
    let event: Value = serde_json::from_str(&aws.reject(&a).unwrap()).unwrap();
    assert_eq!(event["detail"]["pipeline-execution-attempt"], 2.0);
    assert_eq!(
        event["detail"]["action-execution-id"],
        json!(a.action_execution_id(2))
    );
}

#[tokio::test(start_paused = true)]
async fn a_stage_fails_only_when_all_that_runs_in_it_has_ended() {
    let slow = ActionDefinition::build("Load", Work::Nothing);
    let (aws, service) = idle(Definition::default().with_action("Approve", slow));
    let run = aws.start_execution(&service);
    aws.run_to(&run, "Approve").unwrap();
    aws.reject(&run).unwrap();
    let state = pipeline(&aws, "GetPipelineState", None).await;
    assert_eq!(
        state["stageStates"][3]["latestExecution"]["status"],
        "InProgress"
    );
    aws.finish(&run);
    assert_eq!(status(&aws, &run), "Failed");
}

#[tokio::test(start_paused = true)]
async fn everyone_who_writes_is_named_and_a_secret_stays_one() {
    let aws = world(|_| ());
    let a = aws.create_service("shop").unwrap();
    let name = &a.staging_parameter;
    aws.put_parameter_as(name, "EHAND", &aws.person("kim"));
    let put = json!({ "Name": name, "Value": "deleted", "Overwrite": true });
    call(&aws, "AmazonSSM.PutParameter", put).await;
    let users: Vec<_> = history(&aws, &a).await;
    let users: Vec<_> = users
        .iter()
        .map(|it| it["LastModifiedUser"].as_str().unwrap())
        .collect();
    assert_eq!(users[0], "arn:aws:iam::123456789012:user/operator");
    assert!(users[2].contains("/AWSReservedSSO_"), "{users:?}");
    assert_eq!(users[3], "arn:aws:iam::123456789012:user/rehearsal");
    aws.secure_parameter(name);
    for (decrypted, shown) in [(false, false), (true, true)] {
        let read = json!({ "Name": name, "WithDecryption": decrypted });
        let answer = call(&aws, "AmazonSSM.GetParameter", read).await;
        assert_eq!(answer["Parameter"]["Type"], "SecureString");
        assert_eq!(answer["Parameter"]["Value"] == "deleted", shown, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_firewall_manager_modifies_at_any_time() {
    for moves in [false, true] {
        let aws = world(|switches| switches.modified_when_deployed = moves);
        let a = aws.create_service("shop").unwrap();
        let before = aws.distribution(&a.production_id).unwrap();
        aws.modify_as_firewall_manager(&a.production_id).unwrap();
        let after = aws.distribution(&a.production_id).unwrap();
        assert_eq!(after.modified, aws.now());
        assert_ne!(after.etag, before.etag);
        assert_eq!((after.deployed, after.policy_id), (false, before.policy_id));
        assert_eq!(after.modified_by.execution, None);
        advance(MINUTE * 5).await;
        let later = aws.distribution(&a.production_id).unwrap();
        assert_eq!(later.modified > after.modified, moves);
    }
}

#[tokio::test(start_paused = true)]
async fn executions_wait_in_front_of_a_stage_whose_transition_is_disabled() {
    let (aws, idle) = idle(Definition::default());
    aws.set_transition(&idle.pipeline, "Approve", false);
    let started = async || {
        advance(SECOND).await;
        let execution = aws.start_execution(&idle);
        aws.run_to(&execution, "Approve").unwrap()
    };
    let a = started().await;
    let waits = (Some("Deploy".to_owned()), Some("Approve".to_owned()));
    assert_eq!(place(&aws, &a), waits);
    let state = pipeline(&aws, "GetPipelineState", None).await;
    let stages = &state["stageStates"];
    assert_eq!(stages[2]["inboundTransitionState"]["enabled"], true);
    assert_eq!(stages[3]["inboundTransitionState"]["enabled"], false);
    let waiting = &stages[3]["inboundExecutions"][0]["pipelineExecutionId"];
    assert_eq!(*waiting, a.execution_id.as_str());
    // The newer one takes its place.
    let b = started().await;
    assert_eq!(status(&aws, &a), "Superseded");
    aws.set_transition(&idle.pipeline, "Approve", true);
    assert_eq!(place(&aws, &b), at("Approve"));
}
