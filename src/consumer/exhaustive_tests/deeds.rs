//! What an instance of the model does, and what comes of it.

use super::records::{Answer, Asker, Call};
use super::world::{Accepted, Effect, Next};
use super::{
    Broken, Deed, Fate, Granted, Held, LEASE, MESSAGES, Message, Mistake, Model, NEWER, RECEIVES,
    Run, State, Work,
};
use crate::domain::decision::Outcome;

impl Model {
    fn ask(&self, state: &mut State, instance: usize, call: Call) -> Answer {
        let Some(work) = state.instances[instance] else {
            return Answer::NotOwner;
        };
        let current = matches!(work.run, Run::Granted(Granted { newest: true, .. }));
        let asker = Asker {
            instance,
            execution: work.execution,
            current,
        };
        let (rows, answer) = self.ledger.ask(state.ledger, asker, call);
        state.ledger = rows;
        answer
    }

    /// Another instance that believes it may work on this, by its grant.
    fn rival(
        &self,
        state: &State,
        instance: usize,
        is_about: impl Fn(&Work, &Granted) -> bool,
    ) -> bool {
        let others = state
            .instances
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != instance);
        others.filter_map(|(_, work)| work.as_ref()).any(|work| {
            self.goes_on(work)
                && matches!(&work.run, Run::Granted(granted) if is_about(work, granted))
        })
    }

    fn claim(
        &self,
        state: &mut State,
        instance: usize,
        mut work: Work,
        lost: bool,
    ) -> Option<Work> {
        let call = Call::Claim {
            late: self.makes(Mistake::GrantsTwice),
            rash: self.makes(Mistake::TrustsTheTime),
        };
        match self.ask(state, instance, call) {
            Answer::Granted => {
                if self.rival(state, instance, |other, _| {
                    other.execution == work.execution
                }) {
                    state.broken = Some(Broken::GrantedTwice);
                }
                for other in state.instances.iter_mut().flatten() {
                    if let Run::Granted(granted) = &mut other.run
                        && other.execution == work.execution
                    {
                        granted.newest = false;
                    }
                }
                if !lost {
                    let noted = state.ledger[work.execution].is_some_and(|row| row.changed);
                    work.run = Run::Granted(Granted {
                        newest: true,
                        age: 0,
                        bound: false,
                        accepted: Accepted::default(),
                        next: None,
                        noted,
                    });
                }
            }
            Answer::Done if !lost => work.run = Run::Done,
            _ => {}
        }
        Some(work)
    }

    /// Binds, or notes what is about to be done.
    fn bind(&self, state: &mut State, instance: usize, mut work: Work, lost: bool) -> Option<Work> {
        let Run::Granted(mut granted) = work.run else {
            return Some(work);
        };
        let changed = granted.noted || granted.next.is_some();
        let answer = self.ask(state, instance, Call::Bind { changed });
        let let_in = answer == Answer::Busy && self.makes(Mistake::SharesProduction);
        if answer == Answer::NotOwner {
            return if lost {
                Some(work)
            } else {
                self.give_back(state, instance, &work)
            };
        }
        if answer == Answer::Yes || let_in {
            // One whose job is recorded as done changes nothing any more: the answer to that was lost.
            let is_open =
                |work: &Work| state.ledger[work.execution].is_some_and(|row| row.done.is_none());
            if self.rival(state, instance, |work, other| other.bound && is_open(work)) {
                state.broken = Some(Broken::HeldTwice);
            }
            if !lost {
                (granted.bound, granted.noted) = (true, changed);
            }
        }
        work.run = Run::Granted(granted);
        Some(work)
    }

    /// Looks at the account, and decides.
    fn look(&self, state: &mut State, instance: usize, mut work: Work) -> Option<Work> {
        let Run::Granted(granted) = &mut work.run else {
            return Some(work);
        };
        let execution = match self.makes(Mistake::MistakesTheExecution) {
            true => NEWER,
            false => work.execution,
        };
        let decided = self
            .decisions
            .next(state.world, execution, granted.noted, granted.accepted);
        match decided {
            Ok(Some(_)) if self.makes(Mistake::FinishesEarly) => {
                granted.next = Some(Next::Finish(Outcome::Cleaned));
            }
            Ok(next) => granted.next = next,
            Err(()) => return self.give_back(state, instance, &work),
        }
        Some(work)
    }

    fn change(
        &self,
        state: &mut State,
        instance: usize,
        mut work: Work,
        lost: bool,
    ) -> Option<Work> {
        let Run::Granted(mut granted) = work.run else {
            return Some(work);
        };
        let step = granted.next.take()?;
        let row = state.ledger[work.execution]?;
        let is_held = |(message, held): (usize, &Option<Held>)| {
            held.is_some_and(|held| held.newest)
                && matches!(state.queue[message], Message::Hidden { .. })
        };
        if !granted.newest || row.owner != Some(instance) || row.left <= 0 || !row.holds {
            state.broken = Some(Broken::ActedWithoutGrant);
        } else if !work.held.iter().enumerate().any(is_held) {
            state.broken = Some(Broken::ActedWithoutMessage);
        }
        match state.world.change(work.execution, step) {
            Effect::Forbidden => state.broken = Some(Broken::Forbidden),
            Effect::Done if !lost => granted.accepted = granted.accepted.with(step),
            Effect::Done | Effect::Conflict => {}
        }
        work.run = Run::Granted(granted);
        Some(work)
    }

    fn complete(
        &self,
        state: &mut State,
        instance: usize,
        mut work: Work,
        lost: bool,
    ) -> Option<Work> {
        let Run::Granted(Granted {
            newest,
            next: Some(Next::Finish(outcome)),
            ..
        }) = work.run
        else {
            return Some(work);
        };
        let is_owner =
            newest && state.ledger[work.execution].is_some_and(|row| row.owner == Some(instance));
        let mut answer = self.ask(state, instance, Call::Complete(outcome));
        if answer == Answer::NotOwner && self.makes(Mistake::CompletesStale) {
            answer = Answer::Yes;
        }
        if answer == Answer::NotOwner {
            return if lost {
                Some(work)
            } else {
                self.give_back(state, instance, &work)
            };
        }
        if !is_owner {
            state.broken = Some(Broken::CompletedStale);
        } else if state.world.staging[work.execution].is_some() {
            state.broken = Some(Broken::DoneUnclean);
        }
        if !lost {
            work.run = Run::Done;
        }
        Some(work)
    }

    fn beat(
        &self,
        state: &mut State,
        instance: usize,
        mut work: Work,
        fate: Option<Fate>,
    ) -> Option<Work> {
        let learns = fate == Some(Fate::Answered) || self.makes(Mistake::BelievesExtensions);
        for (message, held) in work.held.iter_mut().enumerate() {
            let Some(held) = held else { continue };
            if self.over[usize::from(held.age)] {
                continue;
            }
            if let (true, true, Message::Hidden { left, .. }) =
                (fate.is_some(), held.newest, &mut state.queue[message])
            {
                *left = LEASE;
            }
            if learns {
                held.age = 0;
            }
        }
        if let Run::Granted(granted) = &mut work.run
            && !Self::is_lost(granted)
        {
            let answer = match fate {
                Some(_) => self.ask(state, instance, Call::Renew),
                None => Answer::Yes,
            };
            match answer {
                Answer::NotOwner if learns => granted.age = LEASE,
                _ if learns => granted.age = 0,
                _ => {}
            }
        }
        Some(work)
    }

    fn give_back(&self, state: &mut State, instance: usize, work: &Work) -> Option<Work> {
        if matches!(work.run, Run::Granted(_)) {
            self.ask(state, instance, Call::Release);
        }
        for (message, held) in work.held.iter().enumerate() {
            if let (Some(Held { newest: true, .. }), Message::Hidden { receives, .. }) =
                (held, state.queue[message])
            {
                state.queue[message] = Message::Visible { receives };
            }
        }
        None
    }

    pub(super) fn deed(&self, state: &mut State, instance: usize, deed: Deed, fate: Fate) {
        let lost = fate == Fate::Lost;
        if let Deed::Receive(message) = deed {
            return self.receive(state, instance, message, lost);
        }
        let Some(mut work) = state.instances[instance] else {
            return;
        };
        state.instances[instance] = match deed {
            Deed::Receive(_) | Deed::Crash => None,
            Deed::Claim => self.claim(state, instance, work, lost),
            Deed::Bind | Deed::Note => self.bind(state, instance, work, lost),
            Deed::Look => self.look(state, instance, work),
            Deed::Change => self.change(state, instance, work, lost),
            Deed::Complete => self.complete(state, instance, work, lost),
            Deed::Delete(message) => {
                let done = state.ledger[work.execution].is_some_and(|row| row.done.is_some());
                if !done {
                    state.broken = Some(Broken::DeletedEarly);
                }
                // By an older receipt handle too: AWS does not say that it has no effect.
                if state.queue[message] != Message::Dead {
                    state.queue[message] = Message::Deleted;
                }
                if !lost {
                    work.held[message] = None;
                }
                work.held.iter().any(Option::is_some).then_some(work)
            }
            Deed::Beat => self.beat(state, instance, work, Some(fate)),
            Deed::BeatInVain => self.beat(state, instance, work, None),
            Deed::Release => self.give_back(state, instance, &work),
        };
    }

    fn receive(&self, state: &mut State, instance: usize, message: usize, lost: bool) {
        let Message::Visible { receives } = state.queue[message] else {
            return;
        };
        if receives == RECEIVES {
            state.queue[message] = Message::Dead;
            return;
        }
        state.queue[message] = Message::Hidden {
            receives: receives + 1,
            left: LEASE,
        };
        for held in state
            .instances
            .iter_mut()
            .flatten()
            .filter_map(|work| work.held[message].as_mut())
        {
            held.newest = false;
        }
        if !lost {
            let work = state.instances[instance].get_or_insert(Work {
                execution: self.story.messages[message],
                held: [None; MESSAGES],
                run: Run::Asking,
            });
            work.held[message] = Some(Held {
                age: 0,
                newest: true,
            });
        }
    }
}
