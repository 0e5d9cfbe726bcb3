//! What decides, without I/O: parsing events, matching targets, the core, the edit of a configuration.
//!
//! `cargo bench --locked`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use stagesweep::aws::edit::{self, Edit};
use stagesweep::config::Config;
use stagesweep::domain::arn::PipelineArn;
use stagesweep::domain::binding::{Binding, ParameterVersion};
use stagesweep::domain::decision::{self, Distribution, Observed, Policy, Progress};
use stagesweep::domain::event;
use stagesweep::domain::targets::Targets;

const REJECTION: &str = include_str!("../tests/events/approval-rejected.json");
const CONFIGURATION: &str = include_str!("../tests/configurations/future.xml");

fn events(criterion: &mut Criterion) {
    criterion.bench_function("event::parse a rejection", |bencher| {
        bencher.iter(|| event::parse(black_box(REJECTION)));
    });
}

/// One target whose pattern stands for thousands of pipelines, alone and behind 200 others.
fn targets(criterion: &mut Criterion) {
    let arn: PipelineArn = "arn:aws:codepipeline:eu-west-1:210987654321:shop-frontend-pipeline"
        .parse()
        .expect("a pipeline's ARN");
    for others in [0, 200] {
        let targets = configured(others);
        criterion.bench_function(
            &format!("Targets::resolve among {}", others + 1),
            |bencher| {
                bencher.iter(|| targets.resolve(black_box(&arn), "Approve", "Approve"));
            },
        );
    }
}

fn configured(others: usize) -> Targets {
    let target = |pipeline: &str| {
        format!(
            r#"
[[targets]]
pipeline = "{pipeline}"
stage = "Approve"
action = "Approve"
production_parameter = "/{{service}}/cloudfront/cfcd-production"
staging_parameter = "/{{service}}/cloudfront/cfcd-staging"
"#
        )
    };
    let mut text = r#"queue.url = "https://sqs.eu-west-1.amazonaws.com/210987654321/q""#.to_owned();
    text.extend((0..others).map(|n| target(&format!("{{service}}-team{n}-pipeline"))));
    text += &target("{service}-frontend-pipeline");
    let config = Config::parse(Path::new("bench.toml"), &text, &BTreeMap::new());
    config.expect("a configuration without faults").targets
}

/// The first decision of a cleanup: every fence is passed, and the detach is next.
fn core(criterion: &mut Criterion) {
    let distribution = |id: &str, staging: bool| Distribution {
        id: id.to_owned(),
        domain: format!("{id}.cloudfront.net"),
        etag: "E2QWRUHAPOMQZL".to_owned(),
        deployed: true,
        enabled: true,
        staging,
        aliases: if staging { 0 } else { 2 },
        policy_id: Some("policy".to_owned()),
    };
    let (production, staging) = (
        distribution("EPRODUCTION", false),
        distribution("ESTAGING", true),
    );
    let binding = Binding {
        production_id: production.id.clone(),
        staging_id: staging.id.clone(),
        staging_domain: Some(staging.domain.clone()),
        policy_id: Some("policy".to_owned()),
        ..Binding::default()
    };
    let observed = Observed {
        policies: vec![Policy {
            id: "policy".to_owned(),
            etag: "E1".to_owned(),
            staging_domains: vec![staging.domain.clone()],
        }],
        parameter: Some(ParameterVersion {
            value: "deleted".to_owned(),
            version: 3,
            modified_at: None,
        }),
        production: Some(production),
        staging: Some(staging),
        listed_gone: false,
    };
    let progress = Progress::default();
    criterion.bench_function("decision::decide the detach", |bencher| {
        bencher.iter(|| decision::decide(&binding, black_box(&observed), &progress));
    });
}

fn edits(criterion: &mut Criterion) {
    let edit = Edit::disable();
    edit::apply(CONFIGURATION, edit).expect("a configuration that can be edited");
    criterion.bench_function("edit::apply to a configuration", |bencher| {
        bencher.iter(|| edit::apply(black_box(CONFIGURATION), edit));
    });
}

criterion_group!(benches, events, targets, core, edits);
criterion_main!(benches);
