//! An embedded AWS: SQS, Parameter Store, CloudFront continuous deployment and more, in memory.
//!
//! It speaks the services' own wire protocols, so the daemon under rehearsal is the real one
//! with the real SDK. There are two doors to the same world: [`EmbeddedAws::http_client`] inside
//! the process, where time may be virtual, and [`EmbeddedAws::listen`] on a loopback address,
//! where any AWS client can come in.
//!
//! | room | what | knows |
//! |---|---|---|
//! | `wire` | a call and its answer, identifiers, settings and switches, the journal | |
//! | `services` | SQS, Parameter Store, CloudFront, CodePipeline, DynamoDB, EventBridge, IAM, STS: what each holds, its rules, its protocol | `wire` |
//! | `faults` | faults at random and by rule | `services` |
//! | `world` | setting things up, telling what happens, looking; pipelines whose executions play | `faults` |
//! | `router` | which service a request is for, and the moment at which it takes effect | `world` |
//! | `client`, `listener` | the two doors | `router` |
//!
//! **Guarantees.** Every call takes effect at one moment, in the order of the journal. A call
//! whose caller goes away before that moment has no effect; a long poll that is given up has
//! taken nothing. All waiting is tokio's, so it follows a paused clock. The same seed and the
//! same calls in the same order give the same bytes.
//!
//! **Not handled.** Signatures are not checked and permissions are only denied by rule; of credentials
//! it is only told whose they are, and whether they have ended. FIFO
//! queues, message encryption, parameter tiers, and what CloudFront validates inside origins and
//! cache behaviours are not modelled.

mod client;
mod faults;
mod listener;
mod router;
mod services;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wire;
mod world;

pub use self::client::http_client;
pub use self::faults::chance::Faults;
pub use self::faults::rule::RuleId;
pub use self::listener::Listener;
pub use self::services::by::By;
pub use self::services::codepipeline::definition::{
    ActionDefinition, Category, Definition, Mode, StageDefinition, Work,
};
pub use self::services::codepipeline::execution::Kind;
pub use self::services::codepipeline::flow::Retry;
pub use self::services::codepipeline::script::{Decision, Pattern, Review, Script};
pub use self::services::codepipeline::service::Service;
pub use self::services::sqs::queue::Depth;
pub use self::wire::exchange::{AwsService, Call, Change, Exchange, Failure};
pub use self::wire::journal::{Entry, Journal, Seen};
pub use self::wire::settings::{
    AttachedPolicyDelete, DeleteLag, ExpiredApproval, OmittedPolicyId, Settings,
    StagingAfterPolicyDelete, Switches, Writer,
};
pub use self::world::aws::{Action, EmbeddedAws, Hook, NotInTime, Rule};
pub use self::world::distributions::{DistributionView, Inventory, PolicyView};
pub use self::world::events::{EventOptions, Form, Level, Outcome};
pub use self::world::parameters::ParameterVersion;
pub use self::world::pipeline::views::{ActionView, ExecutionView};
pub use self::world::queues::{MessageView, Queues};
pub use self::world::service::Shape;
