#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const QUOTA: u64 = 1 << 20;

fn space(dir: &Path, tenant: &str) -> Space {
    Database::new(dir).space(tenant, QUOTA, Arc::default())
}

fn store() -> Arc<str> {
    "default".into()
}

/// Runs to the end on a runtime of its own.
fn wait<T>(call: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(call)
}

async fn get(space: &Space, key: &str) -> Option<Vec<u8>> {
    space.get(&store(), vec![key.into()]).await.unwrap().remove(0)
}

async fn set(space: &Space, key: &str, value: &[u8]) -> Result<(), Error> {
    space.set(&store(), vec![(key.into(), value.into())]).await
}

async fn add(space: &Space, key: &str, delta: i64) -> Result<i128, Error> {
    space.increment(&store(), key.into(), Delta::Signed(delta)).await
}

#[derive(Debug, Clone)]
enum Step {
    Set(Vec<(u8, u16)>),
    Delete(Vec<u8>),
    Add(u8, i64),
    Swap(u8, bool, u16),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = (0..6u8, 0..400u16);
    let step = prop_oneof![
        4 => prop::collection::vec(pair, 1..4).prop_map(Step::Set),
        2 => prop::collection::vec(0..6u8, 1..4).prop_map(Step::Delete),
        3 => (0..6u8, -3..9i64).prop_map(|(key, delta)| Step::Add(key, delta)),
        2 => (0..6u8, any::<bool>(), 0..400u16).prop_map(|(k, stale, size)| Step::Swap(k, stale, size)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the stores should do, in the plainest way.
struct Model {
    entries: BTreeMap<String, Vec<u8>>,
    quota: u64,
}

impl Model {
    fn bytes(entries: &BTreeMap<String, Vec<u8>>) -> u64 {
        entries.iter().map(|(key, value)| (ENTRY_BYTES + key.len() + value.len()) as u64).sum()
    }

    fn change(&mut self, changed: BTreeMap<String, Vec<u8>>) -> bool {
        let fits = Self::bytes(&changed) <= self.quota
            || Self::bytes(&changed) <= Self::bytes(&self.entries);
        if fits {
            self.entries = changed;
        }
        fits
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn stores_do_what_a_map_does_within_a_quota(steps in steps(), quota in 200..1_500u64) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Database::new(dir.path()).space("tenant", quota, Arc::default());
        let mut space = open();
        let mut model = Model { entries: BTreeMap::new(), quota };
        wait(async {
            for step in steps {
                let name = |key: u8| format!("key-{key}");
                match step {
                    Step::Set(pairs) => {
                        let pairs: Vec<_> = pairs
                            .into_iter()
                            .map(|(key, size)| (name(key), vec![b'x'; size.into()]))
                            .collect();
                        let mut changed = model.entries.clone();
                        changed.extend(pairs.iter().cloned());
                        let done = space.set(&store(), pairs).await;
                        assert_eq!(done.is_ok(), model.change(changed), "{done:?}");
                    }
                    Step::Delete(keys) => {
                        let keys: Vec<_> = keys.into_iter().map(name).collect();
                        model.entries.retain(|key, _| !keys.contains(key));
                        space.delete(&store(), keys).await.unwrap();
                    }
                    Step::Add(key, delta) => {
                        let old = model.entries.get(&name(key)).cloned();
                        let old = old.map_or(Some(0), |text| std::str::from_utf8(&text).unwrap().parse::<i128>().ok());
                        let done = add(&space, &name(key), delta).await;
                        let Some(old) = old else {
                            assert_eq!(done, Err(Error::NotANumber));
                            continue;
                        };
                        let sum = old + i128::from(delta);
                        let mut changed = model.entries.clone();
                        changed.insert(name(key), sum.to_string().into_bytes());
                        if model.change(changed) {
                            assert_eq!(done, Ok(sum));
                        } else {
                            assert!(matches!(done, Err(Error::Quota { .. })), "{done:?}");
                        }
                    }
                    Step::Swap(key, stale, size) => {
                        let seen = space.version(&store(), name(key)).await.unwrap();
                        if stale {
                            let mut changed = model.entries.clone();
                            changed.insert(name(key), b"between".to_vec());
                            if !model.change(changed) {
                                continue;
                            }
                            set(&space, &name(key), b"between").await.unwrap();
                        }
                        let value = vec![b'y'; size.into()];
                        let done = space.swap(&store(), name(key), seen, value.clone()).await;
                        if stale {
                            assert!(matches!(done, Ok(Err(now)) if now != seen), "{done:?}");
                        } else {
                            let mut changed = model.entries.clone();
                            changed.insert(name(key), value);
                            assert_eq!(done == Ok(Ok(())), model.change(changed), "{done:?}");
                        }
                    }
                    Step::Reopen => space = open(),
                }
                let page = space.keys(&store(), None).await.unwrap();
                assert!(page.keys.iter().eq(model.entries.keys()) && !page.more, "{page:?}");
                let values = space.get(&store(), page.keys).await.unwrap();
                assert!(values.iter().flatten().eq(model.entries.values()));
            }
        });
    }
}

#[test]
fn increments_from_several_handles_are_never_lost() {
    const EACH: i64 = 300;
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // A handle of its own: another thread, another connection, as in another process.
                let space = space(dir.path(), "tenant");
                wait(async {
                    for _ in 0..EACH {
                        add(&space, "visits", 1).await.unwrap();
                    }
                });
            });
        }
    });
    let sum = wait(get(&space(dir.path(), "tenant"), "visits")).unwrap();
    assert_eq!(sum, (4 * EACH).to_string().into_bytes());
}

#[test]
fn several_processes_may_be_the_first() {
    for _ in 0..200 {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| wait(add(&space(dir.path(), "tenant"), "visits", 1)).unwrap());
            }
        });
    }
}

#[test]
fn swaps_from_several_handles_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let space = space(dir.path(), "tenant");
                wait(async {
                    for _ in 0..50 {
                        let mut version = space.version(&store(), "n".into()).await.unwrap();
                        loop {
                            let old = get(&space, "n").await.unwrap_or_else(|| b"0".to_vec());
                            let n: u64 = String::from_utf8(old).unwrap().parse().unwrap();
                            let next = (n + 1).to_string().into_bytes();
                            match space.swap(&store(), "n".into(), version, next).await.unwrap() {
                                Ok(()) => break,
                                Err(now) => version = now,
                            }
                        }
                    }
                });
            });
        }
    });
    assert_eq!(wait(get(&space(dir.path(), "tenant"), "n")), Some(b"150".to_vec()));
}

#[test]
fn numbers_stay_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(dir.path(), "tenant");
    wait(async {
        assert_eq!(add(&space, "n", i64::MAX).await, Ok(i64::MAX.into()));
        assert_eq!(add(&space, "n", 1).await, Err(Error::Overflow));
        let store = store();
        let unsigned = |delta| space.increment(&store, "n".into(), Delta::Unsigned(delta));
        assert_eq!(unsigned(1).await, Ok(i128::from(i64::MAX) + 1));
        assert_eq!(unsigned(u64::MAX).await, Err(Error::Overflow));
        assert_eq!(get(&space, "n").await.unwrap(), b"9223372036854775808");
        set(&space, "n", b"1e3").await.unwrap();
        assert_eq!(add(&space, "n", 1).await, Err(Error::NotANumber));
    });
}

#[test]
fn calls_have_bounds_and_the_quota_is_over_all_stores() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(dir.path(), "tenant");
    wait(async {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(set(&space, &long, b"").await, Err(Error::KeyTooLong(long.len())));
        let large = vec![0; VALUE_BYTES_MAX + 1];
        assert_eq!(set(&space, "k", &large).await, Err(Error::ValueTooLarge(large.len())));
        let many = vec!["k".to_owned(); BATCH_KEYS_MAX + 1];
        assert_eq!(space.get(&store(), many).await, Err(Error::BatchTooLarge));

        let half = vec![0; 600 << 10];
        set(&space, "a", &half).await.unwrap();
        let other: Arc<str> = "other".into();
        let pairs = vec![("small".to_owned(), vec![1]), ("a".to_owned(), half.clone())];
        let refused = space.set(&other, pairs).await.unwrap_err();
        assert!(matches!(refused, Error::Quota { quota: QUOTA, .. }), "{refused}");
        assert!(refused.to_string().contains("keyvalue.quota"), "{refused}");
        // All or nothing.
        assert!(space.keys(&other, None).await.unwrap().keys.is_empty());
        space.delete(&store(), vec!["a".into(), "never".into()]).await.unwrap();
        space.set(&other, vec![("a".into(), half)]).await.unwrap();
        assert_eq!(get(&space, "a").await, None);

        // Above a quota that was lowered, what is there may shrink and nothing may grow.
        let lowered = Database::new(dir.path()).space("tenant", 1_000, Arc::default());
        assert!(matches!(set(&lowered, "b", b"").await, Err(Error::Quota { .. })));
        lowered.set(&other, vec![("a".into(), vec![0; 10 << 10])]).await.unwrap();
    });
}

#[test]
fn answers_are_bounded_too() {
    let dir = tempfile::tempdir().unwrap();
    let space = Database::new(dir.path()).space("tenant", 64 << 20, Arc::default());
    wait(async {
        let keys: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        for key in &keys {
            set(&space, key, &vec![7; VALUE_BYTES_MAX]).await.unwrap();
        }
        assert_eq!(space.get(&store(), keys.clone()).await, Err(Error::BatchTooLarge));
        assert_eq!(space.get(&store(), keys[1..].to_vec()).await.unwrap().len(), 4);
    });
}

#[test]
fn pages_cover_every_key_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let space = space(dir.path(), "tenant");
    let keys: BTreeSet<String> = (0..2_500).map(|n| format!("{:05}", n * 7 % 2_500)).collect();
    wait(async {
        let all: Vec<_> = keys.iter().map(|key| (key.clone(), vec![])).collect();
        for chunk in all.chunks(BATCH_KEYS_MAX) {
            space.set(&store(), chunk.to_vec()).await.unwrap();
        }
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = space.keys(&store(), after).await.unwrap();
            assert!(page.keys.len() <= PAGE_KEYS_MAX);
            found.extend(page.keys);
            if !page.more {
                break;
            }
            after = found.last().cloned();
        }
        assert!(found.iter().eq(&keys));
    });
}

#[test]
fn tenants_do_not_see_each_other_and_removal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (database, removed) = (Database::new(dir.path()), Arc::new(AtomicBool::new(false)));
    let a = database.space("a", QUOTA, removed.clone());
    let b = database.space("b", QUOTA, Arc::default());
    wait(async {
        set(&a, "key", b"of a").await.unwrap();
        set(&b, "key", b"of b").await.unwrap();
        assert_eq!(get(&a, "key").await.unwrap(), b"of a");

        removed.store(true, Ordering::SeqCst);
        hide(dir.path(), "a").unwrap();
        assert_eq!(set(&a, "key", b"late").await, Err(Error::Removed));
        purge(dir.path()).unwrap();
        let again = database.space("a", QUOTA, Arc::default());
        assert_eq!(get(&again, "key").await, None);
        set(&again, "key", b"new").await.unwrap();

        hide_others(dir.path(), &BTreeSet::from(["a"])).unwrap();
        assert_eq!(get(&b, "key").await, None);
        assert_eq!(get(&again, "key").await.unwrap(), b"new");
        purge(dir.path()).unwrap();
    });
    let file = rusqlite::Connection::open(dir.path().join("keyvalue.db")).unwrap();
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        file.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("tenants"), count("entries")), (1, 1));
}

#[test]
fn nothing_is_made_before_it_is_used_and_what_is_made_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("tenants");
    let space = space(&dir, "tenant");
    hide(&dir, "tenant").unwrap();
    purge(&dir).unwrap();
    assert!(!dir.exists());
    wait(set(&space, "key", b"value")).unwrap();
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn a_newer_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    wait(set(&space(dir.path(), "tenant"), "key", b"value")).unwrap();
    let file = rusqlite::Connection::open(dir.path().join("keyvalue.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let refused = wait(set(&space(dir.path(), "tenant"), "key", b"value"));
    assert_eq!(refused, Err(Error::Newer { found: 99, known: 1 }));
}

#[test]
fn stores_move_whole_and_change_hands_at_once() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut bytes = Vec::new();
    assert_eq!(export(from.path(), "a", &mut bytes), Ok(None));
    assert_eq!(stage(to.path(), "a.arriving", None), Ok(0));
    assert!(!to.path().join("keyvalue.db").exists(), "nothing was there to be moved");
    wait(async {
        let space = space(from.path(), "a");
        for n in 0..200_u32 {
            set(&space, &format!("key-{n:03}"), &n.to_le_bytes()).await.unwrap();
        }
        set(&space, "empty", b"").await.unwrap();
    });
    assert_eq!(export(from.path(), "b", &mut bytes), Ok(None));
    assert_eq!(export(from.path(), "a", &mut bytes), Ok(Some(201)));
    wait(async { set(&space(to.path(), "a"), "before", b"1").await.unwrap() });
    // Put down twice, as after a crash.
    for _ in 0..2 {
        assert_eq!(stage(to.path(), "a.arriving", Some(&mut bytes.as_slice())), Ok(201));
        assert_eq!(wait(get(&space(to.path(), "a"), "before")), Some(b"1".to_vec()));
    }
    for _ in 0..2 {
        adopt(to.path(), "a.arriving", "a").unwrap();
    }
    wait(async {
        let space = space(to.path(), "a");
        assert_eq!(get(&space, "before").await, None);
        assert_eq!(get(&space, "key-199").await, Some(199_u32.to_le_bytes().to_vec()));
        assert_eq!(get(&space, "empty").await, Some(Vec::new()));
        // It is counted, and goes on from its version.
        let large = vec![0; usize::try_from(QUOTA).unwrap()];
        assert!(matches!(set(&space, "large", &large).await, Err(Error::Quota { .. })));
        set(&space, "key-000", b"changed").await.unwrap();
    });
    let mut again = Vec::new();
    assert_eq!(export(to.path(), "a", &mut again), Ok(Some(201)));
    assert_ne!(again, bytes);
    // What is cut off or too large is refused, and nobody has it.
    let cut = &bytes[..bytes.len() - 1];
    assert!(matches!(stage(to.path(), "b.arriving", Some(&mut &cut[..])), Err(Error::Failed(_))));
    let mut large = bytes.clone();
    large[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(stage(to.path(), "b.arriving", Some(&mut large.as_slice())).is_err());
    hide_others(to.path(), &BTreeSet::from(["a"])).unwrap();
    purge(to.path()).unwrap();
    adopt(to.path(), "b.arriving", "b").unwrap();
    assert_eq!(wait(get(&space(to.path(), "b"), "key-000")), None);
}
