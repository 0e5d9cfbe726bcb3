//! What an execution deploys.

use jiff::Timestamp;

/// One deployment of a service, waiting at the approval.
#[derive(Clone, Debug)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// `{name}-frontend-pipeline`.
    pub pipeline: String,
    /// The primary distribution.
    pub production_id: String,
    /// The staging distribution of this deployment.
    pub staging_id: String,
    /// Its domain name.
    pub staging_domain: String,
    /// The policy of this deployment.
    pub policy_id: String,
    /// The parameter that names the primary distribution.
    pub production_parameter: String,
    /// The parameter that names the staging distribution.
    pub staging_parameter: String,
    /// The pipeline execution that deployed this.
    pub execution_id: String,
    /// When its approval action started.
    pub start_time: Timestamp,
    /// The account that all of it is in.
    pub account: String,
    /// The region of the pipeline and of the parameters.
    pub region: String,
}
