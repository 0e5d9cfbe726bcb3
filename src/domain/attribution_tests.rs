use super::*;
use crate::domain::binding::ParameterVersion;
use crate::domain::executions::{Attempt, Category, Status};

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const A2: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const UNSEEN: &str = "cccccccc-0000-4000-8000-000000000009";
const ROLE: &str = "arn:aws:sts::123456789012:assumed-role/deployer/i-0abc";
const PERSON: &str = "arn:aws:iam::123456789012:user/alex";
const SIGNED_IN: &str =
    "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/alex";
const ROOT: &str = "arn:aws:iam::123456789012:root";
const SWEEP: &str = "arn:aws:sts::123456789012:assumed-role/stagesweep/stagesweep-queue";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn by_build(uuid: &str) -> String {
    format!("arn:aws:sts::123456789012:assumed-role/codebuild/AWSCodeBuild-{uuid}")
}

fn version(number: i64, value: &str, seconds: i64, by: &str) -> ParameterChange {
    ParameterChange {
        version: ParameterVersion {
            value: value.to_owned(),
            version: number,
            modified_at: Some(at(seconds)),
        },
        by: Some(by.to_owned()),
    }
}

fn candidate(execution: &str, from: i64, until: Option<i64>, build: Option<&str>) -> Candidate {
    Candidate {
        execution_id: execution.to_owned(),
        place: format!("Deploy/{execution}"),
        from: at(from),
        until: until.map(at),
        abandoned: false,
        build: build.map(str::to_owned),
    }
}

/// A's deployment ran from 100 to 200, as build A.
fn own() -> Vec<Candidate> {
    vec![candidate("a", 100, Some(200), Some(A))]
}

fn others(candidates: Vec<Candidate>) -> Others {
    let build = |it: &Candidate| Some((it.build.clone()?, it.execution_id.clone()));
    Others {
        until: Some(at(100_000)),
        builds: candidates.iter().filter_map(build).collect(),
        candidates,
    }
}

/// The history before A: written when the service was made.
fn dummy() -> ParameterChange {
    version(1, "dummy", -9000, PERSON)
}

struct World {
    versions: Vec<ParameterChange>,
    own: Vec<Candidate>,
    others: Others,
    modified: BTreeMap<String, Option<Timestamp>>,
}

impl World {
    fn new(versions: Vec<ParameterChange>) -> Self {
        Self {
            versions,
            own: own(),
            others: Others::default(),
            modified: BTreeMap::new(),
        }
    }

    fn own(mut self, own: Vec<Candidate>) -> Self {
        self.own = own;
        self
    }

    fn others(mut self, candidates: Vec<Candidate>) -> Self {
        self.others = others(candidates);
        self
    }

    fn modified(mut self, id: &str, seconds: i64) -> Self {
        self.modified.insert(id.to_owned(), Some(at(seconds)));
        self
    }

    fn decide(&self) -> Attribution {
        let ours = self
            .versions
            .iter()
            .filter(|it| it.by.as_deref() == Some(SWEEP));
        let ours = ours.map(|it| it.version.version).collect();
        let evidence = |versions| {
            attribute(&Evidence {
                versions,
                own: &self.own,
                others: &self.others,
                modified: &self.modified,
                written_by_us: &ours,
                grace: Duration::from_secs(2),
            })
        };
        let decided = evidence(&self.versions);
        // The order in which SSM lists the versions means nothing.
        let reversed: Vec<_> = self.versions.iter().rev().cloned().collect();
        assert_eq!(evidence(&reversed), decided);
        decided
    }

    /// The ids that are A's, and whether another one is somebody else's by now.
    fn is_own(&self) -> (Vec<String>, bool) {
        match self.decide() {
            Attribution::Own {
                staging,
                superseded,
                ..
            } => (staging.into_iter().map(|own| own.id).collect(), superseded),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self) -> &'static str {
        match self.decide() {
            Attribution::Refused(Undecidable::WriterUnclear { .. }) => "unclear",
            Attribution::Refused(Undecidable::NotWritten { .. }) => "not written",
            Attribution::Refused(Undecidable::HistoryTooShort { .. }) => "too short",
            other => panic!("{other:?}"),
        }
    }
}

fn ids(ids: &[&str]) -> (Vec<String>, bool) {
    (ids.iter().map(|id| (*id).to_owned()).collect(), false)
}

#[test]
fn a_build_of_the_execution_is_believed_whatever_the_times_and_nobody_else_is_asked_about() {
    for seconds in [150, 5000] {
        let world = World::new(vec![dummy(), version(2, "EAAAAAAA", seconds, &by_build(A))]);
        assert_eq!(world.is_own(), ids(&["EAAAAAAA"]), "{seconds}");
    }
    // The story of a crowd before the approval's stage: B deployed meanwhile, and A is rejected at last.
    let crowd = World::new(vec![
        dummy(),
        version(2, "EAAAAAAA", 150, &by_build(A)),
        version(3, "EBBBBBBB", 1000, &by_build(B)),
    ]);
    assert_eq!(crowd.is_own(), ids(&["EAAAAAAA"]));
}

#[test]
fn another_build_is_not_its_own_where_sessions_name_builds() {
    // Within A's own times, and yet B's: A's own version shows that sessions name builds.
    let world = World::new(vec![
        dummy(),
        version(2, "EAAAAAAA", 150, &by_build(A)),
        version(3, "EBBBBBBB", 160, &by_build(B)),
    ]);
    assert_eq!(world.is_own(), ids(&["EAAAAAAA"]));
    // Only B's version shows it: the others have to be asked first.
    let world = World::new(vec![dummy(), version(2, "EBBBBBBB", 160, &by_build(B))]);
    assert_eq!(world.decide(), Attribution::AskOthers { until: at(160) });
    let b = candidate("b", 50, Some(170), Some(B));
    let decided = world.others(vec![b]).decide();
    let slot_of = WhyNothing::SlotOf("b".to_owned());
    assert_eq!(decided, Attribution::Nothing(slot_of));
}

#[test]
fn where_no_session_names_a_build_times_decide() {
    let batch = || {
        World::new(vec![
            dummy(),
            version(2, "EAAAAAAA", 150, &by_build(UNSEEN)),
        ])
    };
    assert_eq!(batch().decide(), Attribution::AskOthers { until: at(150) });
    assert_eq!(batch().others(Vec::new()).is_own(), ids(&["EAAAAAAA"]));
    let beside = |from, until| batch().others(vec![candidate("c", from, until, None)]);
    assert_eq!(beside(0, Some(147)).is_own(), ids(&["EAAAAAAA"]));
    // Two seconds on each side of the others' actions, and of those that still run.
    assert_eq!(beside(0, Some(148)).refusal(), "unclear");
    assert_eq!(beside(152, Some(160)).refusal(), "unclear");
    assert_eq!(beside(153, Some(160)).is_own(), ids(&["EAAAAAAA"]));
    assert_eq!(beside(0, None).refusal(), "unclear");
}

#[test]
fn a_role_is_decided_by_times_narrowly_for_a_and_widely_for_the_others() {
    let written = |seconds| World::new(vec![dummy(), version(2, "EAAAAAAA", seconds, ROLE)]);
    for (seconds, own) in [(98, true), (97, false), (202, true), (203, false)] {
        let world = written(seconds).others(Vec::new());
        match own {
            true => assert_eq!(world.is_own(), ids(&["EAAAAAAA"]), "{seconds}"),
            false => assert_eq!(world.refusal(), "not written", "{seconds}"),
        }
    }
    // Abandoned: its build goes on for an hour.
    let abandoned = Candidate {
        abandoned: true,
        ..candidate("c", -8000, Some(150 - 3600 - 2), None)
    };
    assert_eq!(
        written(150).others(vec![abandoned.clone()]).refusal(),
        "unclear"
    );
    let earlier = Candidate {
        until: Some(at(150 - 3600 - 3)),
        ..abandoned
    };
    assert_eq!(
        written(150).others(vec![earlier]).is_own(),
        ids(&["EAAAAAAA"])
    );
    // A's own action that still runs has no end yet.
    let running = written(900).own(vec![candidate("a", 100, None, None)]);
    assert_eq!(running.others(Vec::new()).is_own(), ids(&["EAAAAAAA"]));
    // Whose claim is wide: two ordinary commits, the newer one's deployment is under way.
    let newer = World::new(vec![dummy(), version(2, "ECCCCCCC", 150, ROLE)])
        .others(vec![candidate("c", 20, Some(160), None)]);
    assert_eq!(newer.refusal(), "unclear");
}

#[test]
fn what_persons_and_stagesweep_wrote_is_nobodys() {
    for by in [PERSON, ROOT, SIGNED_IN, SWEEP] {
        let world = World::new(vec![dummy(), version(2, "EAAAAAAA", 150, by)]);
        assert_eq!(world.others(Vec::new()).refusal(), "not written", "{by}");
    }
    let nameless = ParameterChange {
        by: None,
        ..version(2, "EAAAAAAA", 150, "")
    };
    let world = World::new(vec![dummy(), nameless]).others(Vec::new());
    assert_eq!(world.is_own(), ids(&["EAAAAAAA"]));
}

#[test]
fn a_retried_deployment_has_several_of_its_own_the_newest_first() {
    let world = World::new(vec![
        dummy(),
        version(2, "EAAAAAA1", 150, &by_build(A)),
        version(3, "EAAAAAA2", 350, &by_build(A2)),
    ])
    .own(vec![
        candidate("a", 100, Some(200), Some(A)),
        candidate("a", 300, Some(400), Some(A2)),
    ]);
    assert_eq!(world.is_own(), ids(&["EAAAAAA2", "EAAAAAA1"]));
}

#[test]
fn an_id_that_stood_there_before_is_not_its_making() {
    // Written back by A's build: B had made it.
    let world = World::new(vec![
        dummy(),
        version(2, "EBBBBBBB", 10, &by_build(B)),
        version(3, "EAAAAAAA", 150, &by_build(A)),
        version(4, "EBBBBBBB", 160, &by_build(A)),
    ]);
    assert_eq!(world.is_own(), ids(&["EAAAAAAA"]));
}

#[test]
fn who_writes_the_same_id_later_deploys_into_it() {
    let with = |by: &str, seconds| {
        World::new(vec![
            dummy(),
            version(2, "EAAAAAAA", 150, &by_build(A)),
            version(3, "EAAAAAAA", seconds, by),
        ])
    };
    let by_a_write = || Attribution::Superseded { taken: Vec::new() };
    assert_eq!(with(&by_build(B), 900).decide(), by_a_write());
    assert_eq!(with(PERSON, 900).decide(), by_a_write());
    // Its own second write, and a value that stagesweep has put back.
    assert_eq!(with(&by_build(A), 160).is_own(), ids(&["EAAAAAAA"]));
    match with(SWEEP, 900).decide() {
        Attribution::Own { staging, .. } => assert_eq!(staging[0].version, 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_distribution_for_every_deployment_is_whose_deployment_modified_it_last() {
    // Written once, long ago; every deployment goes into it.
    let reused = || {
        World::new(vec![
            dummy(),
            version(2, "ESHARED1", -5000, &by_build(UNSEEN)),
        ])
    };
    let modified = |seconds| reused().modified("ESHARED1", seconds);
    assert_eq!(
        modified(150).decide(),
        Attribution::AskOthers { until: at(150) }
    );
    assert_eq!(
        modified(150).others(Vec::new()).is_own(),
        ids(&["ESHARED1"])
    );
    // B has deployed into it since, and is under review.
    let b = || vec![candidate("b", 900, Some(1000), None)];
    assert_eq!(modified(950).others(b()).refusal(), "not written");
    // Both ran then.
    let beside = vec![candidate("b", 140, Some(1000), None)];
    assert_eq!(modified(150).others(beside).refusal(), "unclear");
    // A firewall manager: that tells nothing, and does not make it A's.
    assert_eq!(modified(5000).others(Vec::new()).refusal(), "not written");
    // It is gone.
    assert_eq!(reused().others(Vec::new()).refusal(), "not written");
}

#[test]
fn what_it_deployed_into_is_its_own_although_another_wrote_the_parameter_meanwhile() {
    // B wrote its own id before A's last action ended.
    let renamed = |by: &str, value: &str| {
        World::new(vec![
            dummy(),
            version(2, "ESHARED1", -5000, &by_build(UNSEEN)),
            version(3, value, 170, by),
        ])
    };
    let b = || vec![candidate("b", 160, Some(180), Some(B))];
    let shared = |seconds| {
        let world = renamed(&by_build(B), "EBBBBBB1").others(b());
        world.modified("ESHARED1", seconds)
    };
    assert_eq!(shared(150).is_own(), ids(&["ESHARED1"]));
    // Both may have deployed into it; or into the other one.
    assert_eq!(shared(170).refusal(), "unclear");
    let world = shared(150).modified("EBBBBBB1", 165);
    assert_eq!(world.refusal(), "unclear");
    // Stagesweep withdrew it then: what it did to the distribution makes that nobody's.
    let world = renamed(SWEEP, "deleted").others(Vec::new());
    assert_eq!(world.modified("ESHARED1", 150).refusal(), "not written");
}

#[test]
fn what_it_wrote_is_its_own_although_another_wrote_while_a_later_action_of_it_ran() {
    let written = |by_a: &str, by_b: &str| {
        vec![
            dummy(),
            version(2, "EAAAAAA1", 150, by_a),
            version(3, "EBBBBBB1", 250, by_b),
        ]
    };
    let tested = vec![
        candidate("a", 100, Some(200), Some(A)),
        candidate("a", 200, Some(400), Some(A2)),
    ];
    let b = candidate("b", 210, Some(260), Some(B));
    for versions in [written(&by_build(A), &by_build(B)), written(ROLE, PERSON)] {
        let world = World::new(versions).own(tested.clone());
        let world = world.others(vec![b.clone()]);
        let world = world.modified("EAAAAAA1", 140).modified("EBBBBBB1", 240);
        assert_eq!(world.is_own(), ids(&["EAAAAAA1"]));
    }
    // Where it has written nothing itself, that decides.
    let world = World::new(vec![dummy(), version(2, "EBBBBBB1", 250, &by_build(B))]);
    let world = world.own(tested).others(vec![b]).modified("EBBBBBB1", 240);
    assert_eq!(world.refusal(), "unclear");
}

/// A's build ran while B wrote the id, and A deployed into that distribution afterwards.
#[test]
fn what_another_wrote_before_the_deployment_began_was_found_and_not_written_later() {
    let own = || {
        vec![
            candidate("a", 100, Some(200), Some(A)),
            candidate("a", 203, Some(230), Some(A2)),
        ]
    };
    let written = |from, seconds, until| {
        let versions = vec![dummy(), version(2, "ESHARED1", seconds, &by_build(B))];
        let b = candidate("b", from, Some(until), Some(B));
        let world = World::new(versions).own(own()).others(vec![b]);
        world.modified("ESHARED1", 225)
    };
    assert_eq!(written(90, 140, 150).is_own(), ids(&["ESHARED1"]));
    // By then A may have deployed: what was written since is a later version of the same id.
    let by_a_write = Attribution::Superseded { taken: Vec::new() };
    assert_eq!(written(205, 210, 212).decide(), by_a_write);
}

/// Sessions name no build that CodePipeline shows, and B's build began just before A's deployment ended.
#[test]
fn who_wrote_the_same_id_last_cannot_be_told_where_both_may_have() {
    let world = World::new(vec![
        dummy(),
        version(2, "ESHARED1", -5000, &by_build(UNSEEN)),
        version(3, "ESHARED1", 200, &by_build(UNSEEN)),
    ]);
    let world = world.modified("ESHARED1", 185);
    let world = world.others(vec![candidate("b", 192, None, None)]);
    assert_eq!(world.refusal(), "unclear");
}

#[test]
fn what_another_deployed_into_last_is_superseded() {
    let modified = |seconds| {
        World::new(vec![dummy(), version(2, "EAAAAAAA", 150, &by_build(A))])
            .modified("EAAAAAAA", seconds)
    };
    // The sample modifies it after it has written the parameter, within the one action.
    assert_eq!(modified(190).is_own(), ids(&["EAAAAAAA"]));
    assert_eq!(
        modified(950).decide(),
        Attribution::AskOthers { until: at(950) }
    );
    let b = || vec![candidate("b", 900, Some(1000), None)];
    let taken = vec![TakenOver {
        id: "EAAAAAAA".to_owned(),
        execution_id: "b".to_owned(),
        modified_at: at(950),
    }];
    let by_its_modification = Attribution::Superseded { taken };
    assert_eq!(modified(950).others(b()).decide(), by_its_modification);
    // A firewall manager modifies whatever, whenever.
    assert_eq!(
        modified(5000).others(Vec::new()).is_own(),
        ids(&["EAAAAAAA"])
    );
    // That hides whether B deployed into it before,
    assert_eq!(modified(5000).others(b()).refusal(), "unclear");
    // unless B deployed elsewhere, or ran nothing that deploys.
    let mut world = modified(5000).others(vec![candidate("b", 900, Some(1000), Some(B))]);
    world
        .versions
        .push(version(3, "EBBBBBB1", 990, &by_build(B)));
    assert_eq!(world.is_own(), ids(&["EAAAAAAA"]));
    let build = |it: Candidate| Candidate {
        place: "Build/Build".to_owned(),
        ..it
    };
    let own_build = build(candidate("a", 50, Some(100), Some(A2)));
    let world = modified(5000).others(b().into_iter().map(build).collect());
    let world = world.own([vec![own_build], own()].concat());
    assert_eq!(world.is_own(), ids(&["EAAAAAAA"]));
    // So it is where that comes in a later action of A, as where the time is that of the propagation's end.
    let tested = candidate("a", 200, Some(6000), Some(A2));
    let world = modified(5000).others(b());
    let world = world.own([own(), vec![tested]].concat());
    assert_eq!(world.refusal(), "unclear");
}

#[test]
fn what_was_modified_while_another_deployed_too_is_refused_where_others_are_known() {
    let other = || vec![candidate("b", 150, Some(160), Some(B))];
    let by_role =
        || World::new(vec![dummy(), version(2, "EAAAAAAA", 110, ROLE)]).modified("EAAAAAAA", 155);
    assert_eq!(by_role().others(other()).refusal(), "unclear");
    // That one deployed into another distribution.
    let mut made_another = by_role().others(other());
    made_another
        .versions
        .push(version(3, "EBBBBBBB", 158, &by_build(B)));
    assert_eq!(made_another.is_own(), ids(&["EAAAAAAA"]));
    // It began later.
    let later = by_role().others(vec![candidate("b", 120, Some(130), None)]);
    assert_eq!(later.modified("EAAAAAAA", 99).is_own(), ids(&["EAAAAAAA"]));
    // Nobody is asked for where the build tells who wrote it.
    let told = World::new(vec![dummy(), version(2, "EAAAAAAA", 110, &by_build(A))]);
    assert_eq!(told.modified("EAAAAAAA", 155).is_own(), ids(&["EAAAAAAA"]));
}

#[test]
fn of_several_only_what_is_still_its_own() {
    let world = World::new(vec![
        dummy(),
        version(2, "EAAAAAA1", 150, &by_build(A)),
        version(3, "EAAAAAA2", 180, &by_build(A)),
        version(4, "EAAAAAA1", 900, &by_build(B)),
    ]);
    assert_eq!(world.is_own(), (vec!["EAAAAAA2".to_owned()], true));
}

#[test]
fn nothing_of_its_own_is_right_only_where_that_can_be_known() {
    // It ran nothing that could deploy.
    let idle = World::new(vec![dummy()]).own(Vec::new());
    assert_eq!(idle.refusal(), "not written");
    // It ran something, and wrote nothing that anybody can see.
    assert_eq!(World::new(vec![dummy()]).refusal(), "not written");
    let by_hand = World::new(vec![dummy(), version(2, "deleted", 90, SWEEP)]);
    assert_eq!(by_hand.refusal(), "not written");
    // The cleanup stage of C wrote it, by a build that CodePipeline shows.
    let cleaned = || World::new(vec![dummy(), version(2, "deleted", 900, &by_build(B))]);
    assert_eq!(
        cleaned().decide(),
        Attribution::AskOthers { until: at(900) }
    );
    let c = vec![candidate("c", 800, Some(950), Some(B))];
    let slot_of = WhyNothing::SlotOf("c".to_owned());
    assert_eq!(cleaned().others(c).decide(), Attribution::Nothing(slot_of));
    assert_eq!(cleaned().others(Vec::new()).refusal(), "not written");
}

#[test]
fn a_history_that_does_not_reach_back_is_refused() {
    let from =
        |number, seconds| World::new(vec![version(number, "EAAAAAAA", seconds, &by_build(A))]);
    assert_eq!(from(7, 150).refusal(), "too short");
    assert_eq!(from(7, 99).refusal(), "too short");
    assert_eq!(from(1, 150).is_own(), ids(&["EAAAAAAA"]));
    // The oldest version is older than A's first action.
    let trimmed = World::new(vec![
        version(7, "deleted", 98, SWEEP),
        version(8, "EAAAAAAA", 150, &by_build(A)),
    ]);
    assert_eq!(trimmed.is_own(), ids(&["EAAAAAAA"]));
}

#[test]
fn candidates_are_what_could_deploy_before_the_approval() {
    let attempt = |stage: &str, category, from| Attempt {
        execution_id: "a".to_owned(),
        id: Some(stage.to_owned()),
        stage: stage.to_owned(),
        action: "Run".to_owned(),
        category,
        status: Status::Succeeded,
        started_at: from,
        updated_at: Some(at(10)),
        by: None,
        summary: None,
        error_code: None,
        external_id: Some(format!("project:{A}")),
    };
    let attempts = [
        attempt("Source", Category::Source, Some(at(0))),
        attempt("Build", Category::Work, Some(at(1))),
        attempt("Deploy", Category::Work, Some(at(2))),
        attempt("Approve", Category::Approval, Some(at(3))),
        attempt("Approve", Category::Work, Some(at(4))),
        attempt("Promote", Category::Work, Some(at(6))),
        attempt("Lost", Category::Work, None),
    ];
    let places = |found: Vec<Candidate>| {
        let places = found.into_iter().map(|it| it.place);
        places.collect::<Vec<_>>().join(" ")
    };
    let own = |deploy| places(own_candidates(&attempts, ("Approve", at(5)), deploy));
    assert_eq!(own(None), "Build/Run Deploy/Run Approve/Run");
    assert_eq!(own(Some("Deploy")), "Deploy/Run");
    let at_once = |began| places(own_candidates(&attempts, ("Approve", began), None));
    assert_eq!(at_once(at(2)), "Build/Run Deploy/Run");
    assert_eq!(at_once(at(4)), "Build/Run Deploy/Run");
    let stages = ["Source", "Build", "Deploy", "Approve", "Promote"].map(str::to_owned);
    let others = |stage, deploy| places(others_candidates(&attempts, &stages, stage, deploy));
    // An action in a stage that is no more may have been before the approval.
    assert_eq!(
        others(Some("Approve"), None),
        "Build/Run Deploy/Run Approve/Run Lost/Run"
    );
    assert_eq!(others(Some("Approve"), Some("Deploy")), "Deploy/Run");
    assert_eq!(others(Some("Build"), None), "Build/Run Lost/Run");
    assert_eq!(
        own_candidates(&attempts, ("Approve", at(5)), None)[0]
            .build
            .as_deref(),
        Some(A)
    );
}

#[test]
fn only_a_builds_session_is_a_build() {
    assert_eq!(build_of(&by_build(A)), Some(A));
    for other in [
        ROLE,
        PERSON,
        "arn:aws:iam::123456789012:user/AWSCodeBuild-aaaaaaaa-0000-4000-8000-000000000001",
        "arn:aws:sts::123456789012:assumed-role/codebuild/AWSCodeBuild-release",
        "",
    ] {
        assert_eq!(build_of(other), None, "{other}");
    }
}
