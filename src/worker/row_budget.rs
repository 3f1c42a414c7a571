//! How many elements a denoising step may take, after what the device's memory has been found to hold.

/// Steps without a failed allocation after which the budget is doubled again, up to the configured one: what took the memory,
/// such as a training, may have ended.
const QUIET_STEPS: usize = 200;

/// The elements of one step.
#[derive(Debug)]
pub(crate) struct RowBudget {
    configured: usize,
    now: usize,
    quiet: usize,
}

impl RowBudget {
    pub(crate) fn new(configured: usize) -> Self {
        let configured = configured.max(1);
        Self { configured, now: configured, quiet: 0 }
    }

    pub(crate) fn elements(&self) -> usize {
        self.now
    }

    /// A step of so many elements ran out of memory: the next takes half as many.
    pub(crate) fn shrink(&mut self, elements: usize) {
        self.now = (elements.min(self.now) / 2).max(1);
        self.quiet = 0;
    }

    /// A step fitted. Returns whether the budget has grown.
    pub(crate) fn note_step(&mut self) -> bool {
        if self.now == self.configured {
            return false;
        }
        self.quiet += 1;
        if self.quiet < QUIET_STEPS {
            return false;
        }
        self.quiet = 0;
        self.now = (2 * self.now).min(self.configured);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_halved_when_memory_runs_out_and_grows_back_when_it_has_not_for_long() {
        let mut budget = RowBudget::new(24);

        budget.shrink(20);
        assert_eq!(budget.elements(), 10);
        budget.shrink(10);
        budget.shrink(1);
        assert_eq!(budget.elements(), 1);

        let grown: Vec<usize> =
            (0..8 * QUIET_STEPS).filter(|_| budget.note_step()).map(|_| QUIET_STEPS).collect();
        assert_eq!((grown.len(), budget.elements()), (5, 24)); // 2, 4, 8, 16, 24
    }
}
