//! Counts every attempt of every call, and every throttling answer.

use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::telemetry::Telemetry;

/// An interceptor that counts.
#[derive(Debug)]
pub(super) struct CountCalls(pub(super) Arc<Telemetry>);

impl Intercept for CountCalls {
    fn name(&self) -> &'static str {
        "CountCalls"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(metadata) = config.load::<Metadata>() {
            self.0.metrics().api_call(metadata.name());
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // CloudFront throttles as a 400, SSM and SQS with other codes; all say so in the body.
        let response = context.response();
        let throttled = response.status().as_u16() >= 400
            && response.body().bytes().is_some_and(|body| {
                body.windows(THROTTLED.len())
                    .any(|window| window == THROTTLED)
            });
        if throttled && let Some(metadata) = config.load::<Metadata>() {
            self.0.metrics().api_throttle(metadata.name());
        }
        Ok(())
    }
}

/// What `Throttling`, `ThrottlingException`, `RequestThrottled` and `KmsThrottled` share.
const THROTTLED: &[u8] = b"Throttl";
