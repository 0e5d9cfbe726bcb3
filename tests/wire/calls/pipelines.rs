//! CodePipeline as it is asked.

use std::time::Duration;

use embedded_aws::{Definition, Review, Service, Shape};
use serde_json::{Value, json};
use stagesweep::domain::at_work::Activities;
use stagesweep::domain::error_class::ErrorClass;
use stagesweep::domain::executions::{Category, Execution, Mode, StageAction, Status};

use super::{Rig, Sent, deployed};

const CODEPIPELINE: &str = "ap-northeast-1/codepipeline";

#[tokio::test(start_paused = true)]
async fn codepipeline_is_asked_as_documented_and_page_by_page() {
    let (rig, aws, service) = deployed();
    let codepipeline = &rig.account.codepipeline;
    aws.review(&service, 1, Review::Rejected(Some("too slow")));
    let seen = codepipeline
        .look(&service.pipeline, &service.execution_id)
        .await
        .unwrap();
    let sent = rig.sent(CODEPIPELINE);
    let asked = |operation: &str| {
        let target = format!("CodePipeline_20150709.{operation}");
        let mut of_it = sent
            .iter()
            .filter(|it| it.header("x-amz-target") == target.as_str());
        let request = of_it.next().unwrap();
        assert_eq!(of_it.count(), 0);
        assert_eq!(request.header("content-type"), "application/x-amz-json-1.1");
        request.json()
    };
    assert_eq!(
        asked("ListActionExecutions"),
        json!({
            "pipelineName": service.pipeline,
            "filter": { "pipelineExecutionId": service.execution_id },
            "maxResults": 100,
        })
    );
    assert_eq!(
        asked("GetPipelineState"),
        json!({ "name": service.pipeline })
    );
    let [review, deploy, build, source] = &seen.attempts[..] else {
        panic!("{seen:?}");
    };
    for (attempt, stage) in [(deploy, "Deploy"), (build, "Build"), (source, "Source")] {
        assert_eq!(attempt.stage, stage);
        assert_eq!(
            (attempt.status, attempt.category),
            (
                Status::Succeeded,
                if stage == "Source" {
                    Category::Source
                } else {
                    Category::Work
                }
            )
        );
        assert_eq!(attempt.build().is_some(), stage != "Source");
    }
    assert_eq!(
        (review.status, review.category),
        (Status::Failed, Category::Approval)
    );
    assert_eq!(review.id, Some(service.action_execution_id(1)));
    assert_eq!(
        (review.stage.as_str(), review.action.as_str()),
        ("Approve", "Approve")
    );
    assert_eq!(review.started_at, Some(service.start_time));
    assert_eq!(review.updated_at, Some(aws.now()));
    assert_eq!(review.summary.as_deref(), Some("too slow"));
    assert_eq!(review.error_code.as_deref(), Some("JobFailed"));
    let by = review.by.as_deref().unwrap();
    assert!(by.starts_with("arn:aws:sts::123456789012:"), "{by}");
    let stages: Vec<_> = seen.stages.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(stages, ["Source", "Build", "Deploy", "Approve", "Promote"]);
    let latest = Some((service.execution_id.clone(), Status::Failed));
    assert_eq!(seen.stages[3].latest, latest);
    assert_eq!(
        seen.stages[3].actions,
        [StageAction {
            name: "Approve".to_owned(),
            id: Some(service.action_execution_id(1)),
            status: Some(Status::Failed),
            updated_at: Some(aws.now()),
            awaits_review: false,
        }]
    );
    assert_eq!(seen.stages[4].latest, None);

    let executions = codepipeline.executions(&service.pipeline).await.unwrap();
    let sent = rig.one(CODEPIPELINE);
    let asked = json!({ "pipelineName": service.pipeline, "maxResults": 100 });
    assert_eq!(sent.json(), asked);
    let execution = Execution {
        id: service.execution_id.clone(),
        status: Status::Failed,
        started_at: executions[0].started_at,
        updated_at: Some(aws.now()),
        mode: Mode::Locked,
        is_rollback: false,
    };
    assert!(execution.started_at < Some(service.start_time));
    assert_eq!(executions, [execution]);
    assert_eq!(codepipeline.names().await.unwrap(), [&*service.pipeline]);
    let sent = rig.one(CODEPIPELINE);
    assert_eq!(sent.json(), json!({ "maxResults": 1000 }));

    // A hundred attempts and more.
    for attempt in 2..=150 {
        aws.retry_approval(&service, attempt);
    }
    let attempts = codepipeline
        .attempts(&service.pipeline, &service.execution_id)
        .await
        .unwrap();
    assert_eq!(attempts.len(), 153);
    for (pipeline, execution) in [("other", "x"), (service.pipeline.as_str(), "x")] {
        let error = codepipeline.look(pipeline, execution).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    }
}

/// The operations that were asked for since the last time, sorted, and with what.
fn asked(rig: &Rig) -> Vec<(String, Value)> {
    let operation = |it: &Sent| {
        let target = it.header("x-amz-target");
        target.rsplit('.').next().unwrap().to_owned()
    };
    let sent = rig.sent(CODEPIPELINE);
    let mut asked: Vec<_> = sent.iter().map(|it| (operation(it), it.json())).collect();
    asked.sort_by(|one, other| one.0.cmp(&other.0));
    asked
}

fn of_state(service: &Service) -> (String, Value) {
    let name = &service.pipeline;
    ("GetPipelineState".to_owned(), json!({ "name": name }))
}

fn of_mode(service: &Service) -> (String, Value) {
    let question = json!({ "pipelineName": service.pipeline, "maxResults": 1 });
    ("ListPipelineExecutions".to_owned(), question)
}

/// What is asked in PARALLEL mode: of no execution alone.
fn of_newest(service: &Service) -> (String, Value) {
    let question = json!({ "pipelineName": service.pipeline, "maxResults": 100 });
    ("ListActionExecutions".to_owned(), question)
}

fn parallel() -> Definition {
    Definition::default().in_mode(embedded_aws::Mode::Parallel)
}

#[tokio::test(start_paused = true)]
async fn who_is_at_work_is_asked_with_the_mode_once_and_in_parallel_mode_with_the_newest_actions() {
    let (rig, aws, service) = deployed();
    let (codepipeline, name) = (&rig.account.codepipeline, &service.pipeline);
    let shown = codepipeline.activity(name, None).await.unwrap();
    assert_eq!(asked(&rig), [of_state(&service), of_mode(&service)]);
    assert_eq!((shown.mode, &shown.newest[..]), (Mode::Locked, &[][..]));
    let stages: Vec<_> = shown.stages.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(stages, ["Source", "Build", "Deploy", "Approve", "Promote"]);
    let waits = &shown.stages[3].actions[0];
    assert!(waits.awaits_review, "{waits:?}");
    assert_eq!(waits.status, Some(Status::InProgress));
    let known = codepipeline.activity(name, Some(Mode::Locked)).await;
    assert_eq!(asked(&rig), [of_state(&service)]);
    assert_eq!(known.unwrap(), shown);

    // An execution's mode is that of its start.
    aws.define_pipeline(name, parallel());
    assert_eq!(codepipeline.mode(name).await.unwrap(), Mode::Locked);
    let newer = aws.start_execution(&service);
    assert_eq!(codepipeline.mode(name).await.unwrap(), Mode::Parallel);
    assert_eq!(asked(&rig), [of_mode(&service), of_mode(&service)]);
    let shown = codepipeline.activity(name, None).await.unwrap();
    let questions = [of_state(&service), of_newest(&service), of_mode(&service)];
    assert_eq!(asked(&rig), questions);
    assert_eq!(shown.mode, Mode::Parallel);
    let newest: Vec<_> = shown.newest.iter().map(|it| &it.execution_id).collect();
    let [fetches, others @ ..] = &newest[..] else {
        panic!("{shown:?}");
    };
    assert_eq!(*fetches, &newer.execution_id);
    assert_eq!(others, [&service.execution_id; 4]);
    assert_eq!(shown.newest[0].category, Category::Source);
    assert_eq!(shown.newest[0].status, Status::InProgress);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_there_is_not_runs_nothing_and_one_that_may_not_be_asked_is_an_error() {
    let (rig, aws, service) = deployed();
    let codepipeline = &rig.account.codepipeline;
    for mode in [None, Some(Mode::Locked), Some(Mode::Parallel)] {
        let nothing = codepipeline.activity("none", mode).await.unwrap();
        assert_eq!(nothing, Activities::default());
    }
    let error = codepipeline.mode("none").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    let idle = aws.create_idle_service("idle", &Shape::default()).unwrap();
    let mode = codepipeline.mode(&idle.pipeline).await.unwrap();
    assert_eq!(mode, Mode::Locked, "one that never ran");

    aws.define_pipeline(&service.pipeline, parallel());
    aws.start_execution(&service);
    for operation in [
        "GetPipelineState",
        "ListPipelineExecutions",
        "ListActionExecutions",
    ] {
        let rule = aws.deny(operation);
        let error = codepipeline.activity(&service.pipeline, None).await;
        let error = error.unwrap_err();
        assert_eq!(error.class, ErrorClass::AccessDenied, "{operation}");
        aws.remove_rule(rule);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_newest_two_hundred_actions_are_read() {
    let (rig, aws, service) = deployed();
    for attempt in 2..=250 {
        tokio::time::advance(Duration::from_secs(1)).await;
        aws.retry_approval(&service, attempt);
    }
    let attempts = rig
        .account
        .codepipeline
        .newest_attempts(&service.pipeline)
        .await
        .unwrap();
    let ids: Vec<_> = attempts.iter().filter_map(|it| it.id.clone()).collect();
    let newest = (51..=250)
        .rev()
        .map(|it| service.action_execution_id(it))
        .collect::<Vec<_>>();
    assert_eq!(ids, newest);
    let mut second = of_newest(&service);
    second.1["nextToken"] = json!("100");
    assert_eq!(asked(&rig), [of_newest(&service), second]);
}

#[tokio::test(start_paused = true)]
async fn executions_are_read_back_to_the_hundredth_before_one_or_before_a_moment() {
    let (rig, aws, service) = deployed();
    let mut ids = vec![service.execution_id.clone()];
    for _ in 0..350 {
        tokio::time::advance(Duration::from_secs(1)).await;
        ids.push(aws.start_execution(&service).execution_id);
    }
    let codepipeline = &rig.account.codepipeline;
    let newest = codepipeline.executions(&service.pipeline).await.unwrap();
    assert_eq!(newest.len(), 100);
    let began = |number: usize| {
        let found = aws.executions(&service.pipeline);
        let found = found.into_iter().find(|it| it.id == ids[number]);
        found.unwrap().started
    };
    drop(asked(&rig));
    // The one that is asked about, since when, the oldest that is read, how many pages.
    for (asked_about, since, oldest, pages) in [
        (Some(240), 240, 140, 3),
        // Nothing that it ran began at once.
        (Some(240), 239, 140, 3),
        // It is among the newest hundred of a hundred and more.
        (Some(340), 340, 240, 2),
        (Some(50), 50, 0, 4),
        // Another pipeline's: by the moment alone.
        (None, 300, 199, 2),
        (None, 5, 0, 4),
    ] {
        let id = asked_about.map_or("elsewhere", |it: usize| &ids[it]);
        let found = codepipeline
            .executions_around(&service.pipeline, id, began(since))
            .await
            .unwrap();
        let found: Vec<_> = found.iter().map(|it| &it.id).collect();
        let expected: Vec<_> = ids[oldest..].iter().rev().collect();
        assert_eq!(found, expected, "{asked_about:?} {since}");
        let asked = asked(&rig);
        assert_eq!(asked.len(), pages, "{asked_about:?} {since}");
        for (number, (operation, question)) in asked.into_iter().enumerate() {
            assert_eq!(operation, "ListPipelineExecutions");
            let mut page = json!({ "pipelineName": service.pipeline, "maxResults": 100 });
            if number > 0 {
                page["nextToken"] = json!((100 * number).to_string());
            }
            assert_eq!(question, page);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_executions_and_of_their_actions_are_not_followed_for_ever() {
    let began = "2026-09-03T14:21:08Z".parse().unwrap();
    let endless = |field: &str| json!({ "nextToken": "again", field: [] }).to_string();
    let rig = Rig::answering(200, &[], &endless("pipelineExecutionSummaries"));
    let codepipeline = &rig.account.codepipeline;
    let error = codepipeline.executions_around("p", "x", began).await;
    assert_eq!(error.unwrap_err().class, ErrorClass::Unavailable);
    assert_eq!(rig.sent(CODEPIPELINE)[1].json()["nextToken"], "again");

    let rig = Rig::answering(200, &[], &endless("actionExecutionDetails"));
    let codepipeline = &rig.account.codepipeline;
    let error = codepipeline.attempts("p", "x").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    drop(rig.sent(CODEPIPELINE));
    // Of all executions the newest are asked for, however many there are.
    assert_eq!(codepipeline.newest_attempts("p").await.unwrap(), []);
    assert_eq!(rig.sent(CODEPIPELINE).len(), 2);
}
