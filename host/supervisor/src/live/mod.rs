//! What the host does at this moment, for whoever watches: `GET /v1/events`.
//!
//! ```text
//! shared table, registry ──once a second──▶ Sampler ──frame──▶ every watcher
//!                                              └──── snapshot ▶ one that is new, or was too slow
//! ```
//! Owns one [`Sampler`] and the task that has it look, both only while somebody watches: a host that
//! nobody watches computes nothing. Bounded by [`WATCHERS_MAX`] watchers and [`FRAMES_MAX`] frames, which
//! they share; one that falls behind further loses them and starts again from a snapshot, so a slow
//! watcher costs the host no memory. Looking happens on a blocking thread.

mod rates;
mod sampler;

use crate::control::App;
use crate::sync::lock;
use bytes::Bytes;
use sampler::Sampler;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

/// Watchers at once; more are refused.
const WATCHERS_MAX: usize = 32;
/// Frames that are kept for watchers who are behind, each of one second.
const FRAMES_MAX: usize = 4;
/// Time between two looks, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// Whoever watches, and what they are shown.
pub(crate) struct Live {
    places: Arc<Semaphore>,
    frames: broadcast::Sender<Bytes>,
    /// There while somebody watches.
    sampler: Mutex<Option<Sampler>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(WATCHERS_MAX)),
            frames: broadcast::Sender::new(FRAMES_MAX),
            sampler: Mutex::new(None),
        }
    }
}

/// One who watches.
pub(crate) struct Watcher {
    app: Arc<App>,
    frames: broadcast::Receiver<Bytes>,
    /// What it starts with, until it is taken.
    snapshot: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

/// Begins to watch; none if too many do.
pub(crate) async fn watch(app: &Arc<App>) -> Option<Watcher> {
    let place = Arc::clone(&app.live.places).try_acquire_owned().ok()?;
    let to_look = Arc::clone(app);
    let started = tokio::task::spawn_blocking(move || to_look.live.join(&to_look));
    let (frames, snapshot) = started.await.ok()?;
    Some(Watcher { app: Arc::clone(app), frames, snapshot: Some(snapshot), _place: place })
}

impl Watcher {
    /// The next frame, as server-sent events have it. `None` never comes: watching ends with the watcher.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if let Some(snapshot) = self.snapshot.take() {
            return Some(snapshot);
        }
        loop {
            match self.frames.recv().await {
                Ok(frame) => return Some(frame),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {}
            }
            let app = Arc::clone(&self.app);
            let joined = tokio::task::spawn_blocking(move || app.live.join(&app)).await;
            let Ok((frames, snapshot)) = joined else { continue };
            self.frames = frames;
            return Some(snapshot);
        }
    }
}

impl Live {
    /// A place in the row of frames and what went before it, in one step. The first one has the looking
    /// start.
    fn join(&self, app: &Arc<App>) -> (broadcast::Receiver<Bytes>, Bytes) {
        let mut sampler = lock(&self.sampler);
        let sampler = sampler.get_or_insert_with(|| {
            tokio::spawn(keep_looking(Arc::clone(app)));
            Sampler::start(app)
        });
        (self.frames.subscribe(), sampler.snapshot())
    }

    /// Looks once and tells the watchers; whether there are any.
    fn look(&self, app: &App) -> bool {
        let mut sampler = lock(&self.sampler);
        if self.frames.receiver_count() == 0 {
            *sampler = None;
        }
        let Some(sampler) = sampler.as_mut() else { return false };
        // Whoever left since the count above misses nothing.
        let _ = self.frames.send(sampler.changes(app));
        true
    }
}

async fn keep_looking(app: Arc<App>) {
    let mut looks = tokio::time::interval(Duration::from_millis(LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    loop {
        looks.tick().await;
        let looking = Arc::clone(&app);
        if !matches!(
            tokio::task::spawn_blocking(move || looking.live.look(&looking)).await,
            Ok(true)
        ) {
            return;
        }
    }
}
