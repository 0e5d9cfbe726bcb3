//! One exchange: what is called, what goes wrong with it, and the moment at which it takes effect.

mod dispatch;
mod identify;

use std::pin::pin;
use std::sync::MutexGuard;

use http::Request;
use serde_json::Value;
use tokio::time::Instant;

use self::dispatch::{Plan, Step};
use crate::faults::plan::{Entrance, Exit};
use crate::wire::exchange::{Call, Change, Exchange, Failure, Reply};
use crate::wire::journal::{Entry, Seen};
use crate::wire::recorder;
use crate::world::aws::EmbeddedAws;
use crate::world::state::State;

impl EmbeddedAws {
    /// One HTTP exchange.
    ///
    /// Waits for long polls and injected delays; never answers where a fault says so. Dropping
    /// the future is the caller going away.
    pub async fn handle(&self, request: Request<Vec<u8>>) -> Exchange {
        let call = Call::identify(&request, |caller| {
            self.state().identities.account_of(caller)
        });
        let exchange = self.exchange(&call, &request).await;
        if let Exchange::Reply(response) = &exchange {
            recorder::record(&call, &request, response);
        }
        exchange
    }

    async fn exchange(&self, call: &Call, request: &Request<Vec<u8>>) -> Exchange {
        let mut plan = self.inner.injector.plan(call);
        let delay = plan.delay + self.state().settings.latency;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        for hook in &plan.before {
            hook(self, call);
        }
        let request_id = self.state().request_ids.uuid();
        if matches!(plan.entrance, Entrance::Proceed) && self.is_too_fast(call) {
            plan.throttle(call);
        }
        let refused = match &plan.entrance {
            Entrance::Proceed => None,
            Entrance::Refuse(failure) => Some(Seen::Status(failure.status)),
            Entrance::Drop => Some(Seen::Dropped),
            Entrance::Hang => Some(Seen::Nothing),
        };
        if let Some(seen) = refused {
            self.record(&self.state(), call, &plan, seen, None, None);
        }
        match plan.entrance {
            Entrance::Proceed => {}
            Entrance::Refuse(failure) => {
                let reply = failure.into_reply(call.service, &request_id);
                let now = self.now();
                return Exchange::Reply(reply.into_response(call.service, &request_id, now));
            }
            Entrance::Drop => return Exchange::Dropped,
            Entrance::Hang => std::future::pending().await,
        }
        let result = self.carry_out(call, request, &plan).await;
        for hook in &plan.after {
            hook(self, call);
        }
        let reply = match plan.exit {
            Exit::Answer => match result {
                Ok(reply) => reply,
                Err(failure) => failure.into_reply(call.service, &request_id),
            },
            Exit::Refuse(failure) => failure.into_reply(call.service, &request_id),
            Exit::Drop => return Exchange::Dropped,
            Exit::Hang => std::future::pending().await,
        };
        let now = self.now();
        Exchange::Reply(reply.into_response(call.service, &request_id, now))
    }

    fn is_too_fast(&self, call: &Call) -> bool {
        let now = self.now();
        let mut state = self.state();
        let State {
            accounts, settings, ..
        } = &mut *state;
        let account = accounts.entry(call.account.clone()).or_default();
        account.rates.exceeds(now, call, &settings.switches)
    }

    /// Carries a call out; a receive on an empty queue waits for as long as it asked to.
    async fn carry_out(
        &self,
        call: &Call,
        request: &Request<Vec<u8>>,
        plan: &Plan,
    ) -> Result<Reply, Failure> {
        let began = Instant::now();
        let mut last = false;
        loop {
            // Listening before the look, so that nothing that arrives after it is missed.
            let mut changed = pin!(self.inner.changes.notified());
            changed.as_mut().enable();
            match self.step(call, request, plan, last) {
                Step::Done(result) => return result,
                Step::Wait { wait, next_visible } => {
                    let deadline = began + wait;
                    let until = self
                        .instant_of(next_visible)
                        .map_or(deadline, |it| it.min(deadline));
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                    last = Instant::now() >= deadline;
                }
            }
        }
    }

    /// Looks at or changes the world once, and records it in the same breath.
    fn step(&self, call: &Call, request: &Request<Vec<u8>>, plan: &Plan, last: bool) -> Step {
        let mut state = self.state();
        let result = match state.perform(&self.inner.injector, self.now(), call, request, plan) {
            Step::Wait { wait, .. } if last || wait.is_zero() => {
                Ok(Reply::json(&Value::Object(serde_json::Map::new())))
            }
            waiting @ Step::Wait { .. } => return waiting,
            Step::Done(result) => result,
        };
        let (status, code, change) = match &result {
            Ok(reply) => (reply.status, reply.code.clone(), reply.change.clone()),
            Err(failure) => (failure.status, Some(failure.code.clone()), None),
        };
        let seen = match &plan.exit {
            Exit::Answer => Seen::Status(status),
            Exit::Refuse(failure) => Seen::Status(failure.status),
            Exit::Drop => Seen::Dropped,
            Exit::Hang => Seen::Nothing,
        };
        let changed = change.is_some();
        self.record(&state, call, plan, seen, code, change);
        drop(state);
        if changed {
            self.changed();
        }
        Step::Done(result)
    }

    /// Records an exchange. Takes the guard as a witness that the world cannot change meanwhile.
    fn record(
        &self,
        _state: &MutexGuard<'_, State>,
        call: &Call,
        plan: &Plan,
        seen: Seen,
        code: Option<String>,
        change: Option<Change>,
    ) {
        let refusal = match &plan.entrance {
            Entrance::Refuse(failure) => Some(failure.code.clone()),
            _ => None,
        };
        self.inner.journal.record(Entry {
            number: 0,
            at: self.now(),
            call: call.clone(),
            seen,
            code: code.or(refusal),
            change,
            faults: plan.names.clone(),
        });
        self.inner.exchanges.notify_waiters();
    }
}
