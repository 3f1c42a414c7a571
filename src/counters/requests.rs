//! Requests by method and route.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::FAST;
use super::histogram::{Histogram, Snapshot};

/// By method and route.
type Routes = HashMap<(&'static str, String), Arc<Route>>;

/// Requests that were answered, by method and route. Both are closed sets: a route is the pattern of a path, never the path.
#[derive(Debug, Default)]
pub struct RequestCounters {
    routes: RwLock<Option<Routes>>,
}

#[derive(Debug)]
struct Route {
    durations: Histogram,
    /// How often each status was answered.
    statuses: Mutex<BTreeMap<u16, u64>>,
}

/// The requests of one method and route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteCounts {
    pub method: &'static str,
    pub route: String,
    pub durations: Snapshot,
    /// How often each status was answered.
    pub statuses: BTreeMap<u16, u64>,
}

/// Those of this process.
pub static REQUESTS: RequestCounters = RequestCounters { routes: RwLock::new(None) };

impl RequestCounters {
    /// Counts a request that was answered.
    ///
    /// - `route`: the pattern that its path matched
    /// - `duration`: until the head of the answer
    pub fn note(&self, method: &'static str, route: &str, status: u16, duration: Duration) {
        let counted = self.route(method, route);
        counted.durations.observe(duration);
        let mut statuses = counted.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        *statuses.entry(status).or_default() += 1;
    }

    fn route(&self, method: &'static str, route: &str) -> Arc<Route> {
        let key = (method, route.to_owned());
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = routes.as_ref().and_then(|routes| routes.get(&key)) {
            return found.clone();
        }
        drop(routes);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(Route { durations: Histogram::new(&FAST), statuses: Mutex::default() });
        routes.get_or_insert_default().entry(key).or_insert_with(new).clone()
    }

    /// All of them, in the order of their routes.
    pub fn snapshot(&self) -> Vec<RouteCounts> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<RouteCounts> = routes
            .iter()
            .flatten()
            .map(|((method, route), counted)| RouteCounts {
                method,
                route: route.clone(),
                durations: counted.durations.snapshot(),
                statuses: counted.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
            .collect();
        counts.sort_by(|a, b| (&a.route, a.method).cmp(&(&b.route, b.method)));
        counts
    }
}
