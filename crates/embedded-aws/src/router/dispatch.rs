//! Which service carries a call out.

use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::faults::plan::Injector;
use crate::services::by::By;
use crate::services::cloudfront::{self, api};
use crate::services::sqs::{self, Polled};
use crate::services::{eventbridge, iam, sts};
use crate::wire::exchange::{AwsService, Call, Failure, Reply};
use crate::wire::settings::Place;
use crate::world::aws::EmbeddedAws;
use crate::world::state::State;

pub(super) type Plan = crate::faults::plan::Plan<EmbeddedAws>;

/// One try at carrying a call out.
pub(super) enum Step {
    Done(Result<Reply, Failure>),
    /// A receive that found nothing and may wait.
    Wait {
        wait: Duration,
        next_visible: Option<Timestamp>,
    },
}

impl State {
    pub(super) fn perform(
        &mut self,
        injector: &Injector<EmbeddedAws>,
        now: Timestamp,
        call: &Call,
        request: &Request<Vec<u8>>,
        plan: &Plan,
    ) -> Step {
        let token = request.headers().get("x-amz-security-token");
        let token = token.and_then(|value| value.to_str().ok());
        if let Err(failure) = self.identities.admit(call, token, now) {
            return Step::Done(Err(failure));
        }
        Step::Done(match call.service {
            AwsService::CloudFront => self.cloudfront(now, call, request, plan),
            AwsService::Sts => {
                let ids = &mut self.ids;
                sts::call(&mut self.identities, ids, now, call, request.body())
            }
            AwsService::Iam => {
                let denies = |call: &Call| injector.denies(call);
                iam::call(&self.identities, denies, call, request.body())
            }
            AwsService::Unknown => Err(unknown_service(request)),
            _ => match json(request) {
                Ok(body) => return self.json_call(now, call, request, &body, plan),
                Err(failure) => Err(failure),
            },
        })
    }

    /// Where a call is, and who makes it.
    fn whence(&self, call: &Call) -> (Place, By) {
        let region = call.region.as_ref().unwrap_or(&self.settings.region);
        let place = Place {
            account: call.account.clone(),
            region: region.clone(),
        };
        (place, self.identities.caller_of(call))
    }

    fn cloudfront(
        &mut self,
        now: Timestamp,
        call: &Call,
        request: &Request<Vec<u8>>,
        plan: &Plan,
    ) -> Result<Reply, Failure> {
        let (place, by) = self.whence(call);
        let here = self.here(&place);
        let mut context = cloudfront::Context {
            now,
            settings: &here.settings,
            ids: here.ids,
            by: &by,
        };
        api::call(
            here.cloudfront,
            &mut context,
            call,
            request,
            plan.tweaks.stale,
        )
    }

    /// A call of a service that speaks JSON.
    fn json_call(
        &mut self,
        now: Timestamp,
        call: &Call,
        request: &Request<Vec<u8>>,
        body: &Value,
        plan: &Plan,
    ) -> Step {
        Step::Done(match call.service {
            AwsService::Sqs => return self.sqs(now, call, body, plan),
            AwsService::Ssm => {
                let (place, by) = self.whence(call);
                let here = self.here(&place);
                let stale = plan.tweaks.stale;
                here.ssm.call(&here.settings, now, call, &by, body, stale)
            }
            AwsService::CodePipeline => {
                let (place, _) = self.whence(call);
                self.pipelines(place, now, call, body)
            }
            AwsService::DynamoDb => self.dynamodb.call(call, body),
            AwsService::EventBridge => {
                let mut context = eventbridge::Context {
                    now,
                    settings: &self.settings,
                    ids: &mut self.ids,
                    tweaks: &plan.tweaks,
                    sqs: &mut self.sqs,
                };
                self.events.call(&mut context, call, body)
            }
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts | AwsService::Unknown => {
                Err(unknown_service(request))
            }
        })
    }

    fn sqs(&mut self, now: Timestamp, call: &Call, body: &Value, plan: &Plan) -> Step {
        let mut context = sqs::Context {
            now,
            settings: &self.settings,
            ids: &mut self.ids,
            tweaks: &plan.tweaks,
        };
        if call.operation != "ReceiveMessage" {
            return Step::Done(self.sqs.call(&mut context, call, body));
        }
        match self.sqs.receive(&mut context, body) {
            Ok(Polled::Messages(reply)) => Step::Done(Ok(reply)),
            Ok(Polled::Nothing { wait, next_visible }) => Step::Wait { wait, next_visible },
            Err(failure) => Step::Done(Err(failure)),
        }
    }
}

fn json(request: &Request<Vec<u8>>) -> Result<Value, Failure> {
    match request.body().as_slice() {
        [] => Ok(Value::Object(Map::new())),
        bytes => serde_json::from_slice(bytes)
            .map_err(|error| Failure::new(400, "SerializationException", error.to_string())),
    }
}

fn unknown_service(request: &Request<Vec<u8>>) -> Failure {
    let message = format!(
        "The embedded AWS knows SQS, Parameter Store, CloudFront, CodePipeline, DynamoDB, EventBridge, \
         IAM and STS; {} {} is none of theirs.",
        request.method(),
        request.uri().path()
    );
    Failure::new(404, "UnknownOperationException", message)
}
