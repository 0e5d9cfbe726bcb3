//! What a run that ends early has done, and what it leaves: in words, with ids.

use super::run::Run;

impl Run<'_> {
    /// `None`: the job has changed nothing. `restored`: the staging parameter names our distribution again.
    pub(super) fn halfway(&self, restored: bool) -> Option<String> {
        if self.job.removal().is_some() || !self.binding.evidence.changed {
            return None;
        }
        let done = self.done(restored);
        let left = self.left();
        let or_nothing = |words: Vec<String>| match words.is_empty() {
            true => "nothing".to_owned(),
            false => words.join(", "),
        };
        Some(format!(
            "done by then: {}; left: {}",
            or_nothing(done),
            or_nothing(left)
        ))
    }

    /// Whether a step is done, as far as this run has seen. Steps of several staging distributions have the same
    /// names, so that those of earlier runs say nothing then.
    fn has_done(&self, step: &str) -> bool {
        let noted = || self.binding.count() == 1 && self.job.grant.trail().has_done(step);
        self.shown.contains(step) || noted()
    }

    fn done(&self, restored: bool) -> Vec<String> {
        let binding = self.binding.about(self.index);
        let name = &self.parameters.staging;
        let policy = binding.policy_id.as_deref().unwrap_or("of ours");
        let mut done = Vec::new();
        if restored {
            done.push(format!(
                "{name} said `deleted` for a while and names the distribution again"
            ));
        } else if self.binding.evidence.restored.is_some() {
            done.push(format!("{name} was set to `deleted`"));
        } else if self.binding.evidence.recorded.is_some() || self.has_done("record_deleted") {
            done.push(format!("{name} says `deleted`"));
        }
        let changes = [
            (
                "detach_policy",
                format!("policy {policy} detached from {}", binding.production_id),
            ),
            ("delete_policy", format!("policy {policy} deleted")),
            (
                "disable_staging",
                format!("staging distribution {} disabled", binding.staging_id),
            ),
            (
                "delete_staging",
                format!("staging distribution {} deleted", binding.staging_id),
            ),
        ];
        let before = done.len();
        let changes = changes.into_iter().filter(|(step, _)| self.has_done(step));
        done.extend(changes.map(|(_, words)| words));
        if self.sent && done.len() == before && !restored {
            done.push("CloudFront may have been changed by an earlier run".to_owned());
        }
        done
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for index in self.index..self.binding.count() {
            let binding = self.binding.about(index);
            let has_done = |step| index == self.index && self.has_done(step);
            if !has_done("delete_staging") {
                left.push(format!("staging distribution {}", binding.staging_id));
            }
            if !has_done("delete_policy") {
                left.extend(binding.policy_id.map(|id| format!("policy {id}")));
            }
        }
        left
    }
}
