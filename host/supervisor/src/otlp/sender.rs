//! One signal's way to the collector: when it is tried again, and when it is given up.
//!
//! By OTLP's rules for HTTP: again after a pause that doubles if there was no answer, or one of 429, 502, 503 and
//! 504, whose `Retry-After` goes before; never otherwise, since the collector would say the same. Bounded by the
//! time that each batch has. Until a `Retry-After` is over, nothing is sent at all.

use super::Signal;
use super::collector::{Collector, CollectorError};
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause, in milliseconds; about that, since hosts that began together must not come together.
const PAUSE_MS: u64 = 1_000;
/// The longest pause of ours, in milliseconds.
const PAUSE_MS_MAX: u64 = 30_000;
/// Between two lines in the host's log about a collector that fails, in seconds.
const COMPLAINT_S: u64 = 60;

/// Sends the batches of one signal, one after the other.
#[derive(Debug)]
pub(crate) struct Sender {
    collector: Collector,
    signal: Signal,
    /// What the collector has asked for.
    not_before: Option<Instant>,
    complained: Option<Instant>,
    is_failing: bool,
}

impl Sender {
    pub(crate) fn new(collector: Collector, signal: Signal) -> Self {
        Self { collector, signal, not_before: None, complained: None, is_failing: false }
    }

    /// Sends one batch, if need be several times, until `until`. How many of its items the collector did not
    /// take; none if it did not take the batch, which the log then says.
    pub(crate) async fn send(&mut self, json: String, until: Instant) -> Option<u64> {
        let sent = self.deliver(json.into(), until).await;
        let signal = self.signal;
        match sent {
            Ok((rejected, words)) => {
                if std::mem::take(&mut self.is_failing) {
                    let collector = &self.collector;
                    tracing::info!(%collector, "the collector takes {signal} again");
                }
                if rejected > 0 && self.may_complain() {
                    let collector = &self.collector;
                    let words: String = words.chars().take(200).collect();
                    tracing::warn!(%collector, rejected, words, "the collector took a part of the {signal} only");
                }
                Some(rejected)
            }
            Err(error) => {
                self.is_failing = true;
                if self.may_complain() {
                    let collector = &self.collector;
                    tracing::warn!(%collector, %error, "{signal} are dropped: the collector does not take them");
                }
                None
            }
        }
    }

    async fn deliver(
        &mut self,
        body: Bytes,
        until: Instant,
    ) -> Result<(u64, String), CollectorError> {
        let mut pause = Duration::from_millis(PAUSE_MS);
        if let Some(at) = self.not_before {
            if at >= until {
                return Err(CollectorError::Waits(at.saturating_duration_since(Instant::now())));
            }
            tokio::time::sleep_until(at).await;
        }
        loop {
            let error = match self.collector.post(self.signal, body.clone()).await {
                Ok(answer) => {
                    self.not_before = None;
                    return Ok((answer.rejected, answer.words));
                }
                Err(error) => error,
            };
            let wait = match &error {
                CollectorError::Refused { retry_after: Some(wait), .. } => {
                    self.not_before = Some(Instant::now() + *wait);
                    *wait
                }
                error if error.is_passing() => jittered(pause),
                _ => return Err(error),
            };
            if Instant::now() + wait >= until {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(Duration::from_millis(PAUSE_MS_MAX));
        }
    }

    fn may_complain(&mut self) -> bool {
        let quiet = Duration::from_secs(COMPLAINT_S);
        let may = self.complained.is_none_or(|at| at.elapsed() >= quiet);
        if may {
            self.complained = Some(Instant::now());
        }
        may
    }
}

/// From half of it to all of it.
fn jittered(pause: Duration) -> Duration {
    // A new state is a random one.
    let part = u32::try_from(RandomState::new().hash_one(0) % 1_000).unwrap_or(0);
    pause / 2 + pause / 2_000 * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_between_half_and_whole() {
        let pause = Duration::from_secs(4);
        for _ in 0..100 {
            let wait = jittered(pause);
            assert!(wait >= pause / 2 && wait <= pause, "{wait:?}");
        }
    }
}
