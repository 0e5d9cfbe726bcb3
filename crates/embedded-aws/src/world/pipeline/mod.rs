//! Pipelines whose executions deploy, wait, are decided upon, promote, and go wrong.
//!
//! A pipeline is made by `EmbeddedAws::define_pipeline`, or with its service: `Source`, `Build`, `Deploy`,
//! `Approve`, `Promote` in SUPERSEDED mode. Everything of an execution is done with a [`Service`](crate::Service) that
//! stands for it; `EmbeddedAws::current` answers it with what it has deployed by now.
//!
//! | to do | call |
//! |---|---|
//! | an execution that plays by itself as time goes | `EmbeddedAws::play` with a [`Script`](crate::Script) |
//! | an execution that waits for its teller | `EmbeddedAws::start_execution`, `EmbeddedAws::run_to` a stage |
//! | the deployment of its `Deploy` action, at this moment | `EmbeddedAws::deploy` with a [`Pattern`](crate::Pattern) |
//! | the same step by step | `EmbeddedAws::copy_staging`, `EmbeddedAws::deploy_policy`, `EmbeddedAws::deploy_attach` or `EmbeddedAws::deploy_attach_with` an older ETag, `EmbeddedAws::deploy_record` |
//! | its running actions end | `EmbeddedAws::finish`, `EmbeddedAws::fail` |
//! | its approval is decided; answers the event's body | `EmbeddedAws::reject`, `EmbeddedAws::approve`, `EmbeddedAws::decide` |
//! | the transition into a stage is disabled, or enabled | `EmbeddedAws::set_transition` |
//! | a failed stage runs again | `EmbeddedAws::retry` with [`Retry`](crate::Retry) |
//! | a stage is rolled back | `EmbeddedAws::roll_back`, `EmbeddedAws::play_rollback` |
//! | it is stopped; or abandoned, and its build goes on | `EmbeddedAws::stop` |
//! | where it is, and every run of its actions | `EmbeddedAws::execution`, `EmbeddedAws::executions` |
//! | the same by CodePipeline's own API | StartPipelineExecution, RetryStageExecution, PutApprovalResult: its event goes to the default bus |
//! | somebody else writes | `EmbeddedAws::put_parameter_as`, `EmbeddedAws::modify_as_firewall_manager` |
//! | who wrote, in truth | `by` of a parameter's version, `made_by` and `modified_by` of a distribution: [`By`](crate::By) |
//!
//! Switches: [`Switches::writer`](crate::Switches::writer), as whom builds write;
//! [`Switches::modified_when_deployed`](crate::Switches::modified_when_deployed);
//! [`Switches::promotion_needs_policy`](crate::Switches::promotion_needs_policy).
//!
//! **Guarantees.** A stage is entered, waited for or lost as the pipeline's [`Mode`](crate::Mode) has it, at the
//! moment at which it becomes free. A promotion's build reads the parameter when its action begins, gives
//! up on `dummy` and `deleted`, waits until production and staging are `Deployed`, and copies the staging
//! distribution's configuration as it is then. The build of an abandoned action goes on to its end, and
//! writes. Nothing runs in the background: what is due is done at the next look at the world, with
//! the time at which it was due.
//!
//! The parts of a deployment that `service` and `review` tell enter their stages whoever is in them: they are
//! for stories in which that does not matter.

mod asked;
pub(crate) mod builds;
mod deploy;
mod promote;
mod run;
mod story;
#[cfg(test)]
mod tests;
pub(crate) mod views;
