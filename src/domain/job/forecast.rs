//! How long a job would wait and run, foretold before it is queued.

/// What is queued of a kind of job, and how fast the last jobs of this kind have run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Jobs that would run before a new one.
    pub jobs_ahead: i64,
    /// What they and the rest of those that run cost, in the unit of [`super::cost::estimate`].
    pub cost_ahead: f64,
    /// Workers that run jobs of this kind now.
    pub workers: i64,
    /// How long the last jobs took for their cost: the median, in seconds. `None` if none has succeeded.
    pub seconds_per_cost: Option<f64>,
    /// From how many jobs that is.
    pub measured_jobs: i64,
}

/// How long a job would wait and run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// From its start to its end, in seconds.
    pub run_seconds: f64,
    /// Until its start, in seconds.
    pub queue_seconds: f64,
    /// Jobs of its kind that would run before it.
    pub jobs_ahead: i64,
    /// How many jobs of its kind the speed was measured from. 0 if none has succeeded yet: then a usual GPU is assumed.
    pub measured_jobs: i64,
}

impl Load {
    /// Foretells the time of a job.
    ///
    /// - `cost`: what it costs, in the unit of [`super::cost::estimate`]
    pub fn forecast(&self, cost: f64) -> Forecast {
        let pace = self.pace();
        Forecast {
            run_seconds: cost * pace,
            queue_seconds: self.cost_ahead * pace / self.workers.max(1) as f64,
            jobs_ahead: self.jobs_ahead,
            measured_jobs: self.measured_jobs,
        }
    }

    /// Seconds for a unit of cost, which is the second of a usual GPU.
    pub fn pace(&self) -> f64 {
        self.seconds_per_cost.filter(|pace| pace.is_finite() && *pace > 0.0).unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_goes_by_what_was_measured_and_by_who_works() {
        let load = Load {
            jobs_ahead: 3,
            cost_ahead: 6.0,
            workers: 2,
            seconds_per_cost: Some(5.0),
            measured_jobs: 7,
        };

        let forecast = load.forecast(4.0);

        assert_eq!((forecast.run_seconds, forecast.queue_seconds), (20.0, 15.0));
        let unknown = Load { workers: 0, seconds_per_cost: None, measured_jobs: 0, ..load };
        let forecast = unknown.forecast(4.0);
        assert_eq!((forecast.run_seconds, forecast.queue_seconds), (4.0, 6.0));
        assert_eq!(forecast.measured_jobs, 0);
    }
}
