//! The text format that Prometheus reads.

use std::fmt::Write;

use crate::counters::{Counter, Histogram, Snapshot};

/// What a metric is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text that grows metric by metric.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn finish(self) -> String {
        self.0
    }

    /// Begins a metric; its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let begin = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{begin}{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.family(name, Kind::Counter, help);
        self.sample(name, &[], counter.get() as f64);
    }

    /// A histogram without labels.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, Kind::Histogram, help);
        self.buckets(name, &[], &histogram.snapshot());
    }

    /// The samples of a histogram.
    pub(super) fn buckets(&mut self, name: &str, labels: &[(&str, &str)], snapshot: &Snapshot) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in &snapshot.up_to {
            let bound = bound.to_string();
            self.sample(&bucket, &[labels, &[("le", bound.as_str())]].concat(), *count as f64);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), snapshot.count as f64);
        self.sample(&format!("{name}_sum"), labels, snapshot.sum_seconds);
        self.sample(&format!("{name}_count"), labels, snapshot.count as f64);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Some.");
        text.sample("a_total", &[], 3.0);
        text.sample("a_total", &[("route", "/v1/{id}"), ("odd", "a\"b\\")], 0.5);
        text.buckets(
            "b",
            &[("k", "v")],
            &Snapshot { up_to: vec![(0.1, 1)], count: 2, sum_seconds: 1.5 },
        );

        assert_eq!(
            text.finish(),
            "# HELP a_total Some.\n# TYPE a_total counter\na_total 3\n\
             a_total{route=\"/v1/{id}\",odd=\"a\\\"b\\\\\"} 0.5\n\
             b_bucket{k=\"v\",le=\"0.1\"} 1\nb_bucket{k=\"v\",le=\"+Inf\"} 2\nb_sum{k=\"v\"} 1.5\nb_count{k=\"v\"} 2\n"
        );
    }
}
