//! Counts every attempt of every call, and every throttling answer; tells the account's limiter which
//! attempts were answered and which were throttled; and notes in what a call failed with which host was asked.

use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
    FinalizerInterceptorContextMut,
};
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use tokio::time::Instant;

use super::limiter::Limiter;
use super::words::{AtHost, Host};
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
        let sent = SentAt(Instant::now());
        config.interceptor_state().store_put(sent);
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if is_throttled(context)
            && let Some(metadata) = config.load::<Metadata>()
        {
            self.0.metrics().api_throttle(metadata.name());
        }
        Ok(())
    }
}

/// An interceptor that notes which host was asked, for what is said of a call that fails. Of one that never
/// reached its host the HTTP client does that.
#[derive(Debug)]
pub(super) struct NoteHost;

impl Storable for Host {
    type Storer = StoreReplace<Self>;
}

impl Intercept for NoteHost {
    fn name(&self) -> &'static str {
        "NoteHost"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(host) = Host::of(context.request().uri()) {
            config.interceptor_state().store_put(host);
        }
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(host) = config.load::<Host>() else {
            return Ok(());
        };
        if let Some(response) = context.response_mut() {
            response.add_extension(host.clone());
        }
        if let Some(Err(error)) = context.output_or_error_mut()
            && error.is_timeout_error()
        {
            let late = AtHost::new(host.clone(), "no answer in time".into());
            *error = OrchestratorError::timeout(late.into());
        }
        Ok(())
    }
}

/// An interceptor that tells a limiter what became of every attempt.
#[derive(Debug)]
pub(super) struct TellLimiter(pub(super) Limiter);

/// When the attempt that is under way was sent, by [`CountCalls`].
#[derive(Debug)]
pub(super) struct SentAt(pub(super) Instant);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for TellLimiter {
    fn name(&self) -> &'static str {
        "TellLimiter"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(SentAt(sent)) = config.load::<SentAt>()
            && let Some(metadata) = config.load::<Metadata>()
        {
            if is_throttled(context) {
                self.0.throttled(metadata.name(), *sent);
            } else {
                self.0.answered(metadata.name(), *sent);
            }
        }
        Ok(())
    }
}

/// CloudFront throttles as a 400, the others with codes of their own; all say so in the body.
pub(super) fn is_throttled(context: &AfterDeserializationInterceptorContextRef<'_>) -> bool {
    let response = context.response();
    let says = |body: &[u8], code: &[u8]| body.windows(code.len()).any(|window| window == code);
    response.status().as_u16() >= 400
        && response
            .body()
            .bytes()
            .is_some_and(|body| THROTTLED.iter().any(|code| says(body, code)))
}

/// What `Throttling`, `ThrottlingException`, `RequestThrottled` and `KmsThrottled` share; and DynamoDB's own
/// two, `ProvisionedThroughputExceededException` and `RequestLimitExceeded`.
const THROTTLED: [&[u8]; 3] = [
    b"Throttl",
    b"ProvisionedThroughputExceeded",
    b"RequestLimitExceeded",
];
