use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    "2026-09-03T14:00:00Z".parse().unwrap()
}

fn ago(age: Duration) -> Option<Timestamp> {
    Some(now().checked_sub(age).unwrap())
}

fn staging(id: &str, age: Duration) -> Listed {
    Listed {
        id: id.to_owned(),
        domain: format!("{id}.net"),
        staging: true,
        enabled: true,
        modified_at: ago(age),
        comment: String::new(),
    }
}

fn policy(id: &str, lists: &[&str], age: Duration) -> ListedPolicy {
    ListedPolicy {
        id: id.to_owned(),
        staging_domains: lists.iter().map(|id| format!("{id}.net")).collect(),
        modified_at: ago(age),
    }
}

fn one(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn orphans(inventory: &Inventory) -> Vec<String> {
    let report = judge(inventory, now(), HOUR);
    report.orphans().into_iter().map(str::to_owned).collect()
}

/// An old staging distribution with its policy, that nothing is known of.
fn orphaned() -> Inventory {
    Inventory {
        staging: vec![staging("E1", 2 * HOUR)],
        policies: vec![policy("p1", &["E1"], 2 * HOUR)],
        ..Inventory::default()
    }
}

#[test]
fn an_orphan_is_what_nothing_is_known_to_own() {
    assert_eq!(orphans(&orphaned()), ["E1"]);
    let owned = |own: fn(&mut Inventory)| {
        let mut inventory = orphaned();
        own(&mut inventory);
        orphans(&inventory)
    };
    let none = Vec::<String>::new();
    assert_eq!(owned(|it| it.named = one("E1", "/shop/staging")), none);
    assert_eq!(owned(|it| it.attached = one("p1", "EPROD")), none);
    assert_eq!(owned(|it| it.bound = one("E1", "execution/1")), none);
    assert_eq!(owned(|it| it.staging[0].modified_at = None), none);
    // Whatever of it was touched less than an hour ago.
    assert_eq!(owned(|it| it.staging[0].modified_at = ago(HOUR / 2)), none);
    assert_eq!(owned(|it| it.policies[0].modified_at = ago(HOUR / 2)), none);
    let replaced = |it: &mut Inventory| {
        let past = Past {
            replaced_at: ago(HOUR / 2),
            ..Past::default()
        };
        it.past.insert("E1".to_owned(), past);
    };
    assert_eq!(owned(replaced), none);
}

#[test]
fn no_wish_makes_the_least_age_shorter() {
    let mut inventory = orphaned();
    inventory.staging[0].modified_at = ago(HOUR / 2);
    let report = judge(&inventory, now(), Duration::ZERO);
    assert_eq!(report.staging[0].verdict, Verdict::Kept(Reason::Young));
    let report = judge(&orphaned(), now(), 3 * HOUR);
    assert_eq!(report.staging[0].verdict, Verdict::Kept(Reason::Young));
}

#[test]
fn a_policy_that_lists_one_that_is_kept_keeps_the_others() {
    let mut inventory = orphaned();
    inventory.staging.push(staging("E2", 2 * HOUR));
    inventory.policies = vec![policy("p1", &["E1", "E2"], 2 * HOUR)];
    assert_eq!(orphans(&inventory), ["E1", "E2"]);
    inventory.named = one("E2", "/shop/staging");
    assert_eq!(orphans(&inventory), Vec::<String>::new());
}

#[test]
fn a_policy_alone_is_an_orphan_unless_it_is_attached_or_young() {
    let mut inventory = Inventory {
        policies: vec![policy("p1", &["EGONE"], 2 * HOUR)],
        ..Inventory::default()
    };
    assert_eq!(orphans(&inventory), ["p1"]);
    inventory.policies[0].modified_at = ago(HOUR / 2);
    assert_eq!(orphans(&inventory), Vec::<String>::new());
    inventory.policies[0].modified_at = ago(2 * HOUR);
    inventory.attached = one("p1", "EPROD");
    assert_eq!(orphans(&inventory), Vec::<String>::new());
}
