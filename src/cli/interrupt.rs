//! Ctrl-C: ends the program at once, unless a job is followed. Then whoever follows it decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Exit status after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// The Ctrl-C of this process.
pub(super) struct Interrupts {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Somebody decides what Ctrl-C means.
    is_held: AtomicBool,
    pressed: Notify,
}

/// While it lives, Ctrl-C does not end the program.
pub(super) struct Held<'a> {
    state: &'a State,
}

impl Interrupts {
    pub(super) fn listen() -> Self {
        let state = Arc::new(State::default());
        let listener = state.clone();
        tokio::spawn(async move {
            // Where signals cannot be received, Ctrl-C ends the program as it always does.
            while tokio::signal::ctrl_c().await.is_ok() {
                match listener.is_held.load(Ordering::SeqCst) {
                    true => listener.pressed.notify_one(),
                    false => std::process::exit(INTERRUPTED),
                }
            }
        });
        Self { state }
    }

    pub(super) fn hold(&self) -> Held<'_> {
        self.state.is_held.store(true, Ordering::SeqCst);
        Held { state: &self.state }
    }
}

impl Held<'_> {
    /// Waits for the next Ctrl-C.
    pub(super) async fn pressed(&self) {
        self.state.pressed.notified().await;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.state.is_held.store(false, Ordering::SeqCst);
    }
}
