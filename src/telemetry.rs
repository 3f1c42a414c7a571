//! How log lines are written and, in a build with the feature `otel`, where spans are sent.

#[cfg(feature = "otel")]
mod otlp;

use std::io::IsTerminal;

use tracing::Span;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How log lines are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Sends what is left when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    spans: Option<otlp::Spans>,
}

impl Telemetry {
    /// Writes log lines to standard error, so that results can be piped.
    ///
    /// - `default`: which lines, if `RUST_LOG` does not say
    ///
    /// # Errors
    /// With the feature `otel`, if the exporter cannot be set up.
    pub fn start(format: LogFormat, default: &str) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        #[cfg(feature = "otel")]
        {
            let spans = otlp::Spans::from_environment()?;
            subscriber.with(spans.as_ref().map(otlp::Spans::layer)).init();
            Ok(Self { spans })
        }
        #[cfg(not(feature = "otel"))]
        {
            subscriber.init();
            Ok(Self {})
        }
    }
}

#[cfg(feature = "otel")]
impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans {
            spans.send_the_rest();
        }
    }
}

/// Makes a span a part of the trace that a request or a job came with.
///
/// - `traceparent`: a valid one, by W3C Trace Context
pub fn join_trace(span: &Span, traceparent: Option<&str>) {
    #[cfg(feature = "otel")]
    otlp::join_trace(span, traceparent);
    #[cfg(not(feature = "otel"))]
    let _ = (span, traceparent);
}

/// The trace context of a span, for what happens later on its behalf; `None` if spans are not sent anywhere.
pub fn traceparent_of(span: &Span) -> Option<String> {
    #[cfg(feature = "otel")]
    return otlp::traceparent_of(span);
    #[cfg(not(feature = "otel"))]
    {
        let _ = span;
        None
    }
}
