//! `GET /v1/events`: little, bounded, and what really happens.

use insula_model::api::{Event, LiveState};
use insula_tests::http::Framing;
use insula_tests::process::cpu;
use insula_tests::wait::PATIENCE;
use insula_tests::{Connection, Host, repo};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Watchers that a host lets in.
const WATCHERS_MAX: usize = 32;

/// One who watches.
struct Watching {
    connection: Connection<UnixStream>,
    framing: Framing,
    read: String,
}

impl Watching {
    /// Begins, or gets the status of the refusal.
    fn try_begin(host: &Host) -> Result<Self, u16> {
        let stream = UnixStream::connect(host.data().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection::over(stream);
        connection.send("GET /v1/events HTTP/1.1\r\nhost: insula\r\n\r\n");
        let head = connection.head().unwrap();
        if head.status != 200 {
            return Err(head.status);
        }
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        Ok(Self { connection, framing: head.framing(), read: String::new() })
    }

    #[track_caller]
    fn begin(host: &Host) -> Self {
        Self::try_begin(host).expect("watching")
    }

    /// The next event, and what it is called.
    #[track_caller]
    fn next(&mut self) -> (String, Event) {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (name, data) = event.split_once('\n').expect("two lines");
                let name = name.strip_prefix("event: ").expect("a name").to_owned();
                let data = data.strip_prefix("data: ").expect("data");
                let event = serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"));
                self.read = rest.to_owned();
                return (name, event);
            }
            let piece = self.connection.piece(&mut self.framing).unwrap().expect("it goes on");
            self.read.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// The first event for which `wanted` has an answer.
    #[track_caller]
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            let (_, event) = self.next();
            if let Some(found) = wanted(&event) {
                return found;
            }
            assert!(since.elapsed() < PATIENCE, "{what}: {event:?}");
        }
    }
}

#[test]
fn events_say_what_changes_and_nothing_else() {
    let host = Host::with_guests(&["hello", "hostile-trap"]);
    let mut watching = Watching::begin(&host);
    let (name, first) = watching.next();
    assert_eq!(name, "snapshot");
    let slot = |event: &Event, name: &str| {
        event.tenants.iter().find(|tenant| tenant.name.as_str() == name).map(|tenant| tenant.slot)
    };
    let (hello, trap) = (slot(&first, "hello").unwrap(), slot(&first, "hostile-trap").unwrap());
    assert_eq!((first.tenants.len(), first.figures.len()), (2, 0), "{first:?}");
    assert_eq!(first.host.workers.len(), 2);
    assert!(first.host.kinds.workers > 0 && first.host.kinds.files > 0, "{first:?}");

    host.get("hello", "/").expect_ok();
    host.get("hostile-trap", "/go");
    let (mut answered, mut timed) = (None, false);
    watching.until("a request and a fault", |event| {
        assert!(event.tenants.is_empty() && event.gone.is_empty(), "{event:?}");
        let of = |slot| event.figures.iter().find(|figures| figures.slot == slot);
        answered = answered.or_else(|| of(hello).filter(|hello| hello.requests > 0.0).copied());
        timed |= of(hello).is_some_and(|hello| hello.p99_us.is_some_and(|us| us > 0));
        let failing = of(trap).filter(|trap| trap.state == LiveState::Failing)?;
        assert!(failing.requests > 0.0 || failing.faults == 0.0, "{failing:?}");
        answered.filter(|_| timed).map(|_| ())
    });
    let answered = answered.unwrap();
    assert_eq!(answered.state, LiveState::Serving, "{answered:?}");

    // Both come to rest, and then a quiet second says nothing of any tenant.
    watching.until("idle again", |event| {
        let idle = event.figures.iter().find(|f| f.slot == trap && f.state == LiveState::Idle);
        idle.map(|_| ())
    });
    watching.until("a quiet second", |event| event.figures.is_empty().then_some(()));

    host.deploy("more", &repo::guest("hello"), &[]);
    let more = watching.until("a new tenant", |event| slot(event, "more"));
    host.must(["stop", "more"]);
    watching.until("it is stopped", |event| {
        event.figures.iter().find(|f| f.slot == more && f.state == LiveState::Stopped).map(|_| ())
    });
    host.must(["rm", "more"]);
    watching.until("its end", |event| event.gone.contains(&more).then_some(()));
    host.deploy("hello", &repo::guest("hello"), &["--memory", "32Mi"]);
    let revision = watching.until("a new revision", |event| {
        event.tenants.iter().find(|tenant| tenant.slot == hello).map(|tenant| tenant.revision)
    });
    assert_eq!(revision, 2);
    // A canary is told of when it begins and when it ends, and in between to those who come.
    let canary = ["--memory", "16Mi", "--canary", "5%"];
    host.deploy("hello", &repo::guest("hello"), &canary);
    let told = watching.until("a canary", |event| event.canaries.clone());
    let told = told.first().map(|canary| (canary.slot, canary.revision, canary.share.to_string()));
    assert_eq!(told, Some((hello, 3, "5%".to_owned())));
    let (_, later) = Watching::begin(&host).next();
    assert_eq!(later.canaries.map(|all| all.len()), Some(1));
    host.must(["rollback", "hello"]);
    watching.until("its end", |event| event.canaries.clone().filter(Vec::is_empty));
}

#[test]
fn watchers_are_bounded_and_a_slow_one_holds_nobody_up() {
    let host = Host::with_guests(&["hello"]);
    // It never reads.
    let slow = Watching::begin(&host);
    let mut others: Vec<Watching> = (1..WATCHERS_MAX).map(|_| Watching::begin(&host)).collect();
    assert_eq!(Watching::try_begin(&host).err(), Some(429));
    for watching in &mut others {
        assert_eq!(watching.next().0, "snapshot");
        assert_eq!(watching.next().0, "changes");
    }
    // A place is free again once somebody has left, which the host notices when it next writes.
    drop(others);
    let since = Instant::now();
    while Watching::try_begin(&host).is_err() {
        assert!(since.elapsed() < PATIENCE, "no place was given back");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(slow);
}

#[test]
fn a_host_that_nobody_watches_computes_nothing() {
    let host = Host::with_guests(&["hello"]);
    let used = |during: Duration| {
        let before = cpu(host.pid());
        std::thread::sleep(during);
        cpu(host.pid()) - before
    };
    let mut watching = Watching::begin(&host);
    watching.next();
    watching.next();
    drop(watching);
    // It notices at its next look.
    std::thread::sleep(Duration::from_secs(3));
    let idle = used(Duration::from_secs(4));
    assert!(idle <= Duration::from_millis(20), "{idle:?} of CPU in 4 s");
}
