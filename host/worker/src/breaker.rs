//! When a tenant's circuit breaker opens: it has failed often, and mostly, for a while.
//!
//! Each worker counts by itself, in two halves of the window that take turns; the breaker is everybody's
//! (`insula_ipc::breaker`). Only faults of the guest's count against it, and only answers for it: what
//! clients break off, what is refused, and what the host fails says nothing about the guest.

use insula_ipc::breaker::{Breaker, Probe, State, Verdict};
use insula_model::{Outcome, breaker as rules};

/// What one worker has seen of a tenant lately.
#[derive(Default)]
pub(crate) struct Record {
    half_began_ms: u64,
    now: Half,
    before: Half,
}

#[derive(Clone, Copy, Default)]
struct Half {
    faults: u32,
    answers: u32,
}

impl Record {
    /// A request ended; whether the breaker opened for it.
    pub(crate) fn note(
        &mut self,
        breaker: Breaker<'_>,
        rule: &rules::Breaker,
        outcome: Outcome,
        probe: Option<Probe>,
        now_ms: u64,
    ) -> bool {
        let failed = match outcome {
            Outcome::GuestFault(_) => true,
            Outcome::Response => false,
            _ => {
                if let Some(probe) = probe {
                    breaker.decide(probe, Verdict::Unknown, now_ms, rule.open_ms);
                }
                return false;
            }
        };
        if let Some(probe) = probe {
            let verdict = if failed { Verdict::Failed } else { Verdict::Well };
            breaker.decide(probe, verdict, now_ms, rule.open_ms);
            *self = Self::default();
            return false;
        }
        let half_ms = (rule.window_ms / 2).max(1);
        let age_ms = now_ms.saturating_sub(self.half_began_ms);
        if age_ms >= half_ms {
            self.before = if age_ms < 2 * half_ms { self.now } else { Half::default() };
            self.now = Half::default();
            self.half_began_ms = now_ms;
        }
        if !failed {
            self.now.answers = self.now.answers.saturating_add(1);
            return false;
        }
        if breaker.state() != State::Closed {
            // It ran already when the breaker opened.
            *self = Self::default();
            return false;
        }
        self.now.faults = self.now.faults.saturating_add(1);
        let faults = self.now.faults.saturating_add(self.before.faults);
        let answers = self.now.answers.saturating_add(self.before.answers);
        if faults < rule.faults || faults < answers {
            return false;
        }
        *self = Self::default();
        breaker.trip(now_ms, rule.open_ms)
    }
}
