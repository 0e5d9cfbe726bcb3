//! The shortest story that still fails.

use embedded_aws::{Faults, Switches};

use super::run::{Report, run};
use super::scenario::Scenario;

/// Leaves out whatever a failing scenario fails without. Answers it with its report and trace.
pub(crate) fn shrink(scenario: &Scenario) -> (Scenario, Report) {
    let fails = |scenario: &Scenario| run(scenario, false, None).violation.is_some();
    let mut least = scenario.clone();
    let mut calmer = least.clone();
    calmer.faults = Faults::none();
    if fails(&calmer) {
        least = calmer;
    }
    let mut usual = least.clone();
    usual.switches = Switches::default();
    if fails(&usual) {
        least = usual;
    }
    let mut index = 0;
    while index < least.happenings.len() {
        let mut shorter = least.clone();
        shorter.happenings.remove(index);
        if fails(&shorter) {
            least = shorter;
        } else {
            index += 1;
        }
    }
    while least.services > 1 {
        let mut smaller = least.clone();
        smaller.services -= 1;
        if !fails(&smaller) {
            break;
        }
        least = smaller;
    }
    let report = run(&least, true, None);
    (least, report)
}
