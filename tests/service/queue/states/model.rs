//! What the queue should do, in memory.

use vstar::domain::code::Code;
use vstar::domain::job::JobState;

/// Attempts in a row without progress.
const MOST_BARREN: i32 = 3;

#[derive(Clone, Debug)]
pub(super) struct ModelJob {
    pub(super) state: JobState,
    pub(super) attempts: i32,
    pub(super) barren: i32,
    pub(super) ended_attempts: Vec<(i32, Code)>,
    pub(super) error: Option<Code>,
    fence: i64,
    cancel_requested: bool,
    lease_is_over: bool,
    is_overdue: bool,
    /// Its worker was lost once, so it takes a whole batch.
    runs_alone: bool,
}

impl ModelJob {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, JobState::Queued | JobState::Running)
    }

    fn is_held(&self, fence: i64) -> bool {
        self.state == JobState::Running && self.fence == fence
    }

    fn fail(&mut self, code: Code) {
        self.state = JobState::Failed;
        self.error = Some(code);
    }

    fn note_attempt(&mut self, code: Code) {
        self.ended_attempts.push((self.attempts, code));
    }

    /// Ends an attempt that may be followed by another.
    fn end_attempt(&mut self, code: Code) {
        if self.cancel_requested {
            self.state = JobState::Canceled;
            return;
        }
        self.note_attempt(code);
        if self.barren < MOST_BARREN {
            self.state = JobState::Queued;
        } else {
            self.fail(code);
        }
    }
}

/// How a worker ends a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Succeeded,
    Failed(Code),
}

pub(super) struct Model {
    /// In the order in which they were queued, which is that of the queue.
    pub(super) jobs: Vec<ModelJob>,
}

impl Model {
    pub(super) fn new(jobs: usize) -> Self {
        let job = ModelJob {
            state: JobState::Queued,
            attempts: 0,
            barren: 0,
            ended_attempts: Vec::new(),
            error: None,
            fence: 0,
            cancel_requested: false,
            lease_is_over: false,
            is_overdue: false,
            runs_alone: false,
        };
        Self { jobs: vec![job; jobs] }
    }

    /// Returns the jobs that a worker with room for so many gets, with their fences.
    pub(super) fn claim(&mut self, count: usize) -> Vec<(usize, i64)> {
        let mut claimed = Vec::new();
        let mut is_full = false;
        let waiting = |job: &ModelJob| job.state == JobState::Queued && !job.is_overdue;
        for (index, job) in self.jobs.iter_mut().enumerate().filter(|(_, job)| waiting(job)) {
            if is_full || claimed.len() == count {
                break;
            }
            is_full = job.runs_alone;
            job.state = JobState::Running;
            job.attempts += 1;
            job.barren += 1;
            job.fence += 1;
            job.lease_is_over = false;
            claimed.push((index, job.fence));
        }
        claimed
    }

    pub(super) fn beat(&mut self, job: usize, fence: i64) -> Option<bool> {
        let job = &mut self.jobs[job];
        job.is_held(fence).then(|| {
            job.lease_is_over = false;
            job.cancel_requested
        })
    }

    pub(super) fn checkpoint(&mut self, job: usize, fence: i64) -> bool {
        let job = &mut self.jobs[job];
        let is_held = job.is_held(fence);
        if is_held {
            job.barren = 0;
        }
        is_held
    }

    pub(super) fn end(&mut self, job: usize, fence: i64, end: End) -> bool {
        let job = &mut self.jobs[job];
        let is_held = job.is_held(fence);
        if is_held {
            match end {
                End::Succeeded => job.state = JobState::Succeeded,
                End::Failed(code) => {
                    job.note_attempt(code);
                    job.fail(code);
                }
            }
        }
        is_held
    }

    pub(super) fn retry(&mut self, job: usize, fence: i64, code: Code) -> Option<JobState> {
        let job = &mut self.jobs[job];
        job.is_held(fence).then(|| {
            job.end_attempt(code);
            job.state
        })
    }

    pub(super) fn hand_back(&mut self, job: usize, fence: i64) -> bool {
        let job = &mut self.jobs[job];
        let is_held = job.is_held(fence);
        if is_held && job.cancel_requested {
            job.state = JobState::Canceled;
        } else if is_held {
            job.note_attempt(Code::WorkerStopped);
            job.barren = (job.barren - 1).max(0);
            job.state = JobState::Queued;
        }
        is_held
    }

    pub(super) fn stall(&mut self, job: usize, fence: i64) {
        let job = &mut self.jobs[job];
        job.lease_is_over |= job.is_held(fence);
    }

    pub(super) fn stall_all(&mut self) {
        self.jobs.iter_mut().for_each(|job| job.lease_is_over |= job.state == JobState::Running);
    }

    pub(super) fn cancel(&mut self, job: usize) {
        let job = &mut self.jobs[job];
        job.cancel_requested |= job.is_open();
        if job.state == JobState::Queued {
            job.state = JobState::Canceled;
        }
    }

    pub(super) fn miss_deadline(&mut self, job: usize) {
        self.jobs[job].is_overdue = true;
    }

    pub(super) fn reap(&mut self) {
        for job in &mut self.jobs {
            if job.state == JobState::Running && job.lease_is_over {
                job.end_attempt(Code::WorkerLost);
                job.runs_alone = true;
            }
            if job.is_overdue && job.is_open() {
                if job.cancel_requested {
                    job.state = JobState::Canceled;
                    continue;
                }
                if job.state == JobState::Running {
                    job.note_attempt(Code::DeadlineExceeded);
                }
                job.fail(Code::DeadlineExceeded);
            }
        }
    }
}
