//! The request that is being served, for log lines and for the jobs that it leaves behind.
//!
//! It belongs to the task that serves the request, so that what is deep below a handler need not be handed it.

use std::sync::{Arc, OnceLock};

/// What is known of a request besides its content. A clone is a handle to the same request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The value of `x-request-id`.
    pub request_id: Arc<str>,
    /// The value of `traceparent`, if the request has a valid one.
    pub traceparent: Option<Arc<str>>,
    caller: Arc<OnceLock<String>>,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

impl RequestContext {
    pub fn new(request_id: &str, traceparent: Option<&str>) -> Self {
        Self {
            request_id: request_id.into(),
            traceparent: traceparent.map(Arc::from),
            caller: Arc::default(),
        }
    }

    /// The request that the current task serves; `None` outside of requests.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs what serves this request.
    pub async fn scope<F: Future>(self, serving: F) -> F::Output {
        CURRENT.scope(self, serving).await
    }

    /// Notes who has sent the request: a project, or a key. Only the first note counts.
    pub fn note_caller(&self, caller: impl FnOnce() -> String) {
        self.caller.get_or_init(caller);
    }

    /// Who has sent the request, if that has become known.
    pub fn caller(&self) -> Option<&str> {
        self.caller.get().map(String::as_str)
    }
}

/// Whether a text is a trace context of version 00: a trace id, the id of a span, and flags, in hexadecimal.
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let [version, trace, span, flags] = parts.as_slice() else { return false };
    *version == "00"
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && trace.bytes().any(|byte| byte != b'0')
        && span.bytes().any(|byte| byte != b'0')
}

/// The trace id of a valid `traceparent`.
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_trace_context_counts() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(valid));
        assert_eq!(trace_id(valid), "4bf92f3577b34da6a3ce929d0e0e4736");
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
    }

    #[tokio::test]
    async fn a_task_knows_the_request_that_it_serves() {
        assert!(RequestContext::current().is_none());

        let context = RequestContext::new("r1", None);
        let seen = context.clone().scope(async {
            let current = RequestContext::current().unwrap();
            current.note_caller(|| "prj_1".to_owned());
            current.note_caller(|| "prj_2".to_owned());
            current.request_id
        });

        assert_eq!(&*seen.await, "r1");
        assert_eq!((context.caller(), &context.traceparent), (Some("prj_1"), &None));
    }
}
