//! A state database that is damaged, emptied, or without its log.

use super::{deploy, doctor, set_secret};
use insula_tests::Host;
use insula_tests::wait::within;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const PAGE: usize = 4096;

fn database(host: &Host) -> PathBuf {
    host.data().join("state.db")
}

/// A host that has stopped, with a few tenants, and a copy of its database that has all of them.
#[track_caller]
fn stopped() -> (Host, Vec<u8>) {
    let mut host = Host::with_guests(&["hello"]);
    let artifact = host.tenant("hello").summary.artifact.to_string();
    for i in 0..12 {
        host.api_deploy(&format!("t{i}"), &artifact);
    }
    set_secret(&host, "shop", "TOKEN", "kept").expect(0, &[]);
    deploy(&host, "settings", "shop", "secrets = { TOKEN = 'env' }").expect(0, &[]);
    assert!(host.stop(Signal::TERM).success());
    let before = SystemTime::now();
    host.restart();
    within(Duration::from_secs(20), "a copy", || {
        let modified = |path: PathBuf| fs::metadata(path).ok()?.modified().ok();
        let made = modified(host.data().join("state.db.bak"))?;
        // One that was made of a database at rest has its time, and is not made again.
        (made > before || Some(made) == modified(database(&host))).then_some(())
    });
    assert!(host.stop(Signal::TERM).success());
    let sound = fs::read(database(&host)).unwrap();
    (host, sound)
}

#[track_caller]
fn all_answer(host: &Host) {
    for i in 0..12 {
        host.get(&format!("t{i}"), "/").expect_ok();
    }
    assert_eq!(host.get("shop", "/env?key=TOKEN").expect_ok().text(), "kept");
}

#[test]
fn a_damaged_database_is_refused_with_a_mend_that_works() {
    let (mut host, sound) = stopped();
    let file = database(&host);
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for page in 0..sound.len() / PAGE {
        let mut bytes = sound.clone();
        // The head of a page says what it is; that of the first begins behind the file's own.
        let at = page * PAGE + if page == 0 { 100 } else { 0 };
        bytes[at..at + 64].fill(0xa5);
        damages.push((format!("the head of page {page}"), bytes));
    }
    let mut bytes = sound.clone();
    bytes[0..16].fill(b'x');
    damages.push(("the head of the file".into(), bytes));
    damages.push(("the second half".into(), sound[..sound.len() / 2 / PAGE * PAGE].to_vec()));
    damages.push(("all".into(), Vec::new()));
    let mut refused = 0;
    for (what, bytes) in damages {
        fs::write(&file, &bytes).unwrap();
        let (level, said, code) = doctor(&host, "state");
        if level == "ok" {
            // A page that nothing is in: then it starts, and lacks nothing.
            fs::write(&file, &bytes).unwrap();
            host.restart();
            all_answer(&host);
            assert!(host.stop(Signal::TERM).success());
        } else {
            refused += 1;
            assert_eq!(code, Some(1), "{what}: {said}");
            assert!(said.contains("--restore"), "{what}: {said}");
            host.refuses_to_start().expect(1, &["state.db", "insula doctor --restore"]);
            assert_eq!(fs::read(&file).unwrap(), bytes, "{what}: a refused start changed it");
        }
    }
    assert!(refused > 10, "{refused}");
    fs::write(&file, &sound[..PAGE]).unwrap();
    let restored = host.must(["doctor", "--restore"]);
    assert!(restored.stdout.contains("state.db.damaged-"), "{restored:?}");
    host.restart();
    all_answer(&host);
    host.cli(["doctor", "--restore"]).expect(1, &["another host", "stop it"]);
    assert_eq!(doctor(&host, "state").0, "ok");
    // And when it is gone altogether.
    assert!(host.stop(Signal::TERM).success());
    fs::remove_file(&file).unwrap();
    host.refuses_to_start().expect(1, &["gone", "insula doctor --restore"]);
    host.must(["doctor", "--restore"]);
    host.restart();
    all_answer(&host);
}

#[test]
fn a_running_host_notices_damage_and_writes_nothing_more() {
    let (mut host, sound) = stopped();
    // Beyond what is checked at the start: only the copy's check can see it.
    host.restart();
    let file = database(&host);
    let at = sound.len() / PAGE / 2 * PAGE;
    let damaged = fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, &[0xa5; 64], at as u64).unwrap();
    drop(damaged);
    within(Duration::from_secs(20), "the host notices", || {
        let said = host.log();
        (said.contains("damaged") && said.contains("insula doctor")).then_some(())
    });
    set_secret(&host, "shop", "TOKEN", "new").expect(1, &["damaged", "insula doctor --restore"]);
    all_answer(&host);
    assert!(host.stop(Signal::TERM).success());
    host.must(["doctor", "--restore"]);
    host.restart();
    all_answer(&host);
}

#[test]
fn databases_beside_the_state_are_told_from_it() {
    let mut host = Host::with_guests(&["hello"]);
    deploy(&host, "counter", "counter", "keyvalue = {}").expect(0, &[]);
    host.get("counter", "/").expect_ok();
    assert!(host.stop(Signal::TERM).success());
    let data = host.data();
    let spoil = |name: &str| {
        let file = fs::File::options().write(true).open(data.join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 100], 0).unwrap();
    };
    spoil("usage.db");
    let usage = host.data().join("usage.db");
    host.refuses_to_start().expect(1, &["usage.db", "move it out"]);
    let (level, said, _) = doctor(&host, "other databases");
    assert!(level == "fail" && said.contains("usage.db"), "{said}");
    fs::rename(&usage, host.home().join("usage.db")).unwrap();
    // Nothing of the host's depends on what tenants keep: whoever uses it is told.
    spoil("tenants/keyvalue.db");
    let (level, said, _) = doctor(&host, "other databases");
    assert!(level == "fail" && said.contains("tenants/keyvalue.db"), "{said}");
    host.restart();
    host.get("hello", "/").expect_ok();
    assert!(host.get("counter", "/").status() >= 500, "a damaged store answered");
    assert!(host.log().contains("stores"), "{}", host.log());
    deploy(&host, "hello", "hello", "env = { A = 'b' }").expect(0, &[]);
    host.get("hello", "/").expect_ok();
    // A new tenant might inherit what another of its name had stored, so it has to wait.
    deploy(&host, "settings", "shop", "").expect(1, &["stored cannot be removed", "keyvalue.db"]);
}

#[test]
fn a_log_that_is_cut_short_or_gone_leaves_a_state_that_once_was() {
    let mut host = Host::with_guests(&["hello"]);
    let artifact = host.tenant("hello").summary.artifact.to_string();
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    for i in 0..10 {
        host.api_deploy(&format!("t{i}"), &artifact);
    }
    host.kill_everything();
    host.kill();
    let wal = host.data().join("state.db-wal");
    let (log, base) = (fs::read(&wal).unwrap(), fs::read(database(&host)).unwrap());
    assert!(log.len() > 10 * PAGE, "{}", log.len());
    let mut most = Vec::new();
    for cut in [log.len(), log.len() - 1, log.len() / 2, log.len() / 3 + 7, 20, 0] {
        fs::write(database(&host), &base).unwrap();
        fs::write(&wal, &log[..cut]).unwrap();
        let _ = fs::remove_file(host.data().join("state.db-shm"));
        host.restart();
        let there: Vec<String> = host.tenants().iter().map(|t| t.name.to_string()).collect();
        // The first so many of them, and each answers: there is no half of one.
        let count = there.iter().filter(|name| name.starts_with('t')).count();
        for i in 0..10 {
            let answer = host.get(&format!("t{i}"), "/");
            if i < count {
                answer.expect_ok();
            } else {
                answer.expect_fault("no-route");
            }
        }
        host.get("hello", "/").expect_ok();
        most.push(count);
        host.kill_everything();
        host.kill();
    }
    assert_eq!((most[0], most[5]), (10, 0), "{most:?}");
    assert!(most.is_sorted_by(|a, b| a >= b), "{most:?}");
    fs::write(database(&host), &base).unwrap();
    for ending in ["wal", "shm"] {
        let _ = fs::remove_file(host.data().join(format!("state.db-{ending}")));
    }
    host.restart();
    host.eventually_logs("its database is not there");
    host.get("hello", "/").expect_ok();
}
