//! The demo's progress: bars on a terminal, plain lines otherwise.

use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::stdout;

/// Where the demo writes its progress.
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    start: Instant,
}

/// One piece of work with steps.
pub(crate) struct Work<'a> {
    progress: &'a Progress,
    title: String,
    bar: Option<ProgressBar>,
    /// Tenths told so far.
    told: u64,
}

impl Progress {
    pub(crate) fn new(terminal: bool) -> Self {
        Self { bars: terminal.then(MultiProgress::new), start: Instant::now() }
    }

    /// Says a sentence.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
        match &self.bars {
            Some(bars) => drop(bars.println(line)),
            // The demo goes on, also if nobody reads.
            None => drop(stdout::line(&line)),
        }
    }

    /// Begins a piece of work.
    pub(crate) fn begin(&self, title: impl Into<String>) -> Work<'_> {
        let title = title.into();
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{msg:40} {wide_bar} {pos}/{len} {eta}");
            let bar = bars.add(ProgressBar::new(1));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(title.clone());
            bar
        });
        Work { progress: self, title, bar, told: 0 }
    }
}

impl Work<'_> {
    /// Says how far it is; `note` is short, such as a loss.
    pub(crate) fn at(&mut self, step: u64, of: u64, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(of);
            bar.set_position(step);
            bar.set_message(format!("{} {note}", self.title));
            return;
        }
        let tenths = (10 * step).checked_div(of).unwrap_or(0);
        if tenths > self.told {
            self.told = tenths;
            self.progress.say(&format!("{}: {step} of {of} {note}", self.title));
        }
    }

    /// Ends it.
    pub(crate) fn done(self, note: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.say(&format!("{}: {note}", self.title));
    }
}
