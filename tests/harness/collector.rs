//! A collector that takes OTLP over HTTP as JSON, remembers what it was sent, and answers as it is told.

use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What it was sent, and what it answered.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of the request.
    pub path: String,
    /// When it was there.
    pub at: Instant,
    /// As it came.
    pub body: Value,
    /// Of the answer.
    pub status: u16,
}

#[derive(Debug, Default)]
struct State {
    received: Vec<Received>,
    /// The next answers: their status, and seconds of `Retry-After`.
    next: VecDeque<(u16, Option<u32>)>,
    /// All others; none for no answer at all.
    status: Option<u16>,
}

/// The collector; it listens until the test process ends.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Collector {
    /// One that takes everything.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        let state = Arc::new(Mutex::new(State { status: Some(200), ..State::default() }));
        let of = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, of) = (stream.expect("a connection"), Arc::clone(&of));
                std::thread::spawn(move || serve(stream, &of));
            }
        });
        Self { port, state }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it answers from now on; none for nothing at all.
    pub fn answers(&self, status: Option<u16>) {
        lock(&self.state).status = status;
    }

    /// What it answers next, with seconds of `Retry-After`; then as before.
    pub fn answers_next(&self, next: &[(u16, Option<u32>)]) {
        lock(&self.state).next.extend(next);
    }

    /// What came for this path, oldest first.
    pub fn received(&self, path: &str) -> Vec<Received> {
        lock(&self.state).received.iter().filter(|one| one.path == path).cloned().collect()
    }

    /// The spans that it took.
    pub fn spans(&self) -> Vec<Value> {
        let taken = self.received("/v1/traces").into_iter().filter(|one| one.status == 200);
        let spans = |one: Received| {
            one.body["resourceSpans"][0]["scopeSpans"][0]["spans"]
                .as_array()
                .expect("spans")
                .clone()
        };
        taken.flat_map(spans).collect()
    }

    /// The last figures that it took, as Prometheus would name them; none before there are any.
    pub fn figures(&self) -> Option<Figures> {
        let all = self.received("/v1/metrics");
        all.iter().rfind(|one| one.status == 200).map(|one| Figures::of(&one.body))
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            // The host was killed.
            return;
        }
    }
    let path = head.split(' ').nth(1).expect("path").to_owned();
    let head = head.to_lowercase();
    assert!(head.starts_with("post "), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let length = head.split("content-length: ").nth(1).expect("length");
    let length: usize = length.split_whitespace().next().expect("length").parse().expect("length");
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let (status, retry_after) = {
        let mut state = lock(state);
        let next = state.next.pop_front().or(state.status.map(|status| (status, None)));
        let status = next.map_or(0, |(status, _)| status);
        state.received.push(Received { path, at: Instant::now(), body, status });
        match next {
            Some(next) => next,
            None => {
                drop(state);
                // Until the other side is tired of waiting.
                let _ = reader.read(&mut [0]);
                return;
            }
        }
    };
    let again = retry_after.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let answer = format!("HTTP/1.1 {status} x\r\n{again}content-length: 2\r\n\r\n{{}}");
    let _ = stream.write_all(answer.as_bytes());
}

/// The points of one export of metrics.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// By name and labels, as a page of Prometheus has them; buckets are cumulative.
    pub samples: BTreeMap<String, f64>,
    /// The unit of each metric.
    pub units: BTreeMap<String, String>,
}

impl Figures {
    /// Fails if the body is not what OTLP says.
    #[track_caller]
    pub fn of(body: &Value) -> Self {
        let mut figures = Self::default();
        let metrics = &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        for metric in metrics.as_array().expect("metrics") {
            let name = metric["name"].as_str().expect("name");
            let unit = metric["unit"].as_str().expect("unit");
            let twice = figures.units.insert(name.into(), unit.into());
            assert!(twice.is_none(), "{name} twice");
            let (sum, histogram) = (&metric["sum"], &metric["histogram"]);
            let data = [sum, histogram, &metric["gauge"]].into_iter().find(|data| !data.is_null());
            let data = data.unwrap_or_else(|| panic!("no data: {metric}"));
            for point in data["dataPoints"].as_array().expect("points") {
                let at = nanos(&point["timeUnixNano"]);
                if metric["gauge"].is_null() {
                    assert_eq!(data["aggregationTemporality"], 2, "cumulative: {metric}");
                    let start = nanos(&point["startTimeUnixNano"]);
                    assert!(start > 1_500_000_000_000_000_000 && start <= at, "{point}");
                }
                if !sum.is_null() {
                    assert_eq!(sum["isMonotonic"], true, "{metric}");
                }
                figures.take(name, point);
            }
        }
        figures
    }

    fn take(&mut self, name: &str, point: &Value) {
        let labels = point["attributes"].as_array().expect("attributes").iter().map(|one| {
            let value = one["value"]["stringValue"].as_str().expect("a string");
            format!("{}=\"{value}\"", one["key"].as_str().expect("key"))
        });
        let labels: Vec<String> = labels.collect();
        let mut insert = |name: String, more: Option<String>, value: f64| {
            let all: Vec<String> = labels.iter().cloned().chain(more).collect();
            let series = if all.is_empty() { name } else { format!("{name}{{{}}}", all.join(",")) };
            assert!(self.samples.insert(series.clone(), value).is_none(), "{series} twice");
        };
        if let Some(counts) = point["bucketCounts"].as_array() {
            let bounds = point["explicitBounds"].as_array().expect("bounds");
            assert_eq!(counts.len(), bounds.len() + 1);
            let ends = bounds.iter().map(|bound| bound.as_f64().expect("bound").to_string());
            let mut sum = 0.0;
            for (count, le) in counts.iter().zip(ends.chain(["+Inf".into()])) {
                sum += number(count);
                insert(format!("{name}_bucket"), Some(format!("le=\"{le}\"")), sum);
            }
            insert(format!("{name}_count"), None, number(&point["count"]));
            insert(format!("{name}_sum"), None, number(&point["sum"]));
            return;
        }
        let value = if point["asInt"].is_null() { &point["asDouble"] } else { &point["asInt"] };
        insert(name.into(), None, number(value));
    }

    /// All samples of a name together.
    pub fn sum(&self, name: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.samples.keys().filter(of).map(|series| self.samples[series]).sum()
    }
}

/// A number, or a 64-bit one in a string.
#[track_caller]
fn number(value: &Value) -> f64 {
    let text = || value.as_str().and_then(|text| text.parse().ok());
    value.as_f64().or_else(text).unwrap_or_else(|| panic!("no number: {value}"))
}

#[track_caller]
fn nanos(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no time: {value}"))
}
