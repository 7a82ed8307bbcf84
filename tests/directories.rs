//! Directories: what is granted works, what is not granted is not there, and no path leads out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Host, repo};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello"]));

/// Deploys the guest `files` as `name` with these lines in its manifest.
#[track_caller]
fn grant(host: &Host, name: &str, lines: &str) {
    let component = repo::guest("files");
    let manifest =
        format!("name = \"{name}\"\ncomponent = {component:?}\ntimeout = \"20s\"\n{lines}\n");
    let file = host.file(&format!("{name}.toml"), manifest);
    host.must(["deploy".as_ref(), "-f".as_ref(), file.as_os_str()]);
}

/// A directory of the test's own.
fn dir(host: &Host, name: &str) -> PathBuf {
    let dir = host.home().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn mount(host: &Path, guest: &str, rest: &str) -> String {
    format!("mounts = [{{ host = {host:?}, guest = {guest:?}{rest} }}]")
}

/// What the guest answers.
#[track_caller]
fn ask(host: &Host, name: &str, query: &str) -> String {
    host.get(name, &format!("/?{query}")).expect_ok().text()
}

#[track_caller]
fn refused(name: &str, query: &str, why: &[&str]) {
    let answer = ask(&HOST, name, query);
    let expected = answer.starts_with("error: ") && why.iter().any(|why| answer.contains(why));
    assert!(expected, "{name} {query}: {answer}");
}

#[test]
fn without_a_grant_there_is_no_directory() {
    HOST.deploy("nothing", &repo::guest("files"), &[]);
    assert_eq!(HOST.get("nothing", "/").expect_ok().text(), "directories: \n");
    for path in ["/", "/etc/passwd", ".", "/proc/self/environ", "/tmp", "../etc/passwd"] {
        for op in ["read", "list", "write", "raw"] {
            let answer = ask(&HOST, "nothing", &format!("op={op}&path={path}"));
            assert!(answer.starts_with("error: "), "{op} {path}: {answer}");
        }
    }
}

#[test]
fn a_mount_is_read_and_one_for_writing_written() {
    let data = dir(&HOST, "plain");
    fs::write(data.join("greeting"), "hello from the host\n").unwrap();
    grant(&HOST, "plain", &mount(&data, "/data", ", access = \"rw\""));
    assert_eq!(HOST.get("plain", "/").expect_ok().text(), "directories: /data\n");
    assert_eq!(ask(&HOST, "plain", "op=read&path=/data/greeting"), "hello from the host\n");
    assert_eq!(ask(&HOST, "plain", "op=write&path=/data/answer&data=42"), "done\n");
    assert_eq!(fs::read_to_string(data.join("answer")).unwrap(), "42");
    assert_eq!(ask(&HOST, "plain", "op=append&path=/data/answer&data=43"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=mkdir&path=/data/sub"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=rename&path=/data/answer&to=/data/sub/a"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=list&path=/data"), "greeting sub\n");
    assert_eq!(ask(&HOST, "plain", "op=truncate&path=/data/sub/a&n=1"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=read&path=/data/sub/a"), "4");
    assert_eq!(ask(&HOST, "plain", "op=rm&path=/data/sub/a"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=rmdir&path=/data/sub"), "done\n");
    assert_eq!(ask(&HOST, "plain", "op=list&path=/data"), "greeting\n");
    // Nothing beside what was granted.
    refused("plain", "op=read&path=/etc/passwd", &["NotFound", "os error"]);
}

#[test]
fn a_mount_for_reading_cannot_be_changed() {
    let data = dir(&HOST, "fixed");
    fs::write(data.join("file"), "as it was").unwrap();
    fs::create_dir(data.join("sub")).unwrap();
    grant(&HOST, "fixed", &mount(&data, "/data", ""));
    assert_eq!(ask(&HOST, "fixed", "op=read&path=/data/file"), "as it was");
    for change in [
        "op=write&path=/data/file",
        "op=write&path=/data/new",
        "op=append&path=/data/file",
        "op=truncate&path=/data/file&n=0",
        "op=mkdir&path=/data/new",
        "op=rm&path=/data/file",
        "op=rmdir&path=/data/sub",
        "op=rename&path=/data/file&to=/data/new",
        "op=symlink&path=/data/new&to=file",
        "op=link&path=/data/file&to=/data/new",
        "op=touch&path=/data/file",
        "op=raw-write&path=/data/file",
    ] {
        refused("fixed", change, &["PermissionDenied", "ReadOnlyFilesystem", "not-permitted"]);
    }
    assert_eq!(ask(&HOST, "fixed", "op=list&path=/data"), "file sub\n");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "as it was");
}

#[test]
fn no_path_and_no_link_leads_out() {
    let data = dir(&HOST, "jail");
    let secret = HOST.file("secret", "the host's own");
    fs::create_dir(data.join("deep")).unwrap();
    fs::write(data.join("inside"), "within").unwrap();
    symlink(&secret, data.join("absolute")).unwrap();
    symlink("../secret", data.join("relative")).unwrap();
    symlink("deep/../../secret", data.join("winding")).unwrap();
    symlink("relative", data.join("chain")).unwrap();
    symlink("/", data.join("root")).unwrap();
    symlink("..", data.join("up")).unwrap();
    symlink("/proc/self/root", data.join("magic")).unwrap();
    symlink("/proc/self/fd/0", data.join("descriptor")).unwrap();
    symlink("loop", data.join("loop")).unwrap();
    symlink("deep/../inside", data.join("home")).unwrap();
    grant(&HOST, "jail", &mount(&data, "/data", ", access = \"rw\""));

    // A link that stays inside leads where it says.
    assert_eq!(ask(&HOST, "jail", "op=read&path=/data/home"), "within");
    let outside = secret.display();
    for path in [
        "/data/absolute".into(),
        "/data/relative".into(),
        "/data/winding".into(),
        "/data/chain".into(),
        "/data/loop".into(),
        "/data/up/secret".into(),
        "/data/../secret".into(),
        "/data/deep/../../secret".into(),
        "/data/descriptor".into(),
        format!("/data/root{outside}"),
        format!("/data/magic{outside}"),
        format!("/data//{outside}/../secret"),
    ] {
        for op in ["read", "raw", "append", "raw-write", "stat", "touch"] {
            let answer = ask(&HOST, "jail", &format!("op={op}&path={path}"));
            assert!(answer.starts_with("error: "), "{op} {path}: {answer}");
        }
    }
    // What the guest makes itself leads no further: absolute targets are refused at once, others
    // when they are followed.
    refused("jail", "op=symlink&path=/data/mine&to=/etc/passwd", &["not-permitted", "no-entry"]);
    assert_eq!(ask(&HOST, "jail", "op=symlink&path=/data/mine&to=../secret"), "done\n");
    refused("jail", "op=raw&path=/data/mine", &["not-permitted"]);
    refused("jail", "op=link&path=/data/../secret&to=/data/hard", &["not-permitted"]);
    refused("jail", "op=rename&path=/data/inside&to=/data/../moved", &["Permission", "os error"]);
    refused("jail", "op=mkdir&path=/data/up/made", &["Permission", "os error"]);
    assert!(!HOST.home().join("made").exists() && !HOST.home().join("moved").exists());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's own");
}

#[test]
fn a_link_that_changes_all_the_time_never_leads_out() {
    let data = dir(&HOST, "swapped");
    HOST.file("target", "OUTSIDE");
    fs::write(data.join("inside"), "within").unwrap();
    grant(&HOST, "swapped", &mount(&data, "/data", ""));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let to = if turn % 2 == 0 { "../target" } else { "inside" };
                let _ = fs::remove_file(data.join("next"));
                symlink(to, data.join("next")).unwrap();
                fs::rename(data.join("next"), data.join("link")).unwrap();
            }
        });
        let mut connection = HOST.connect();
        let (mut inside, mut refused) = (0, 0);
        for _ in 0..400 {
            let answer = connection.get("swapped.localhost", "/?op=raw&path=/data/link").text();
            assert!(!answer.contains("OUTSIDE"), "{answer}");
            if answer == "within" { inside += 1 } else { refused += 1 }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(inside > 0 && refused > 0, "the link never changed: {inside}, {refused}");
    });
}

#[test]
fn a_directory_is_the_one_that_was_opened_whatever_its_path_becomes() {
    let (data, other) = (dir(&HOST, "first"), dir(&HOST, "second"));
    fs::write(data.join("which"), "first").unwrap();
    fs::write(other.join("which"), "second").unwrap();
    grant(&HOST, "pinned", &mount(&data, "/data", ""));
    // Both workers have it open once each has answered.
    let seen = || ask(&HOST, "pinned", "op=read&path=/data/which");
    for _ in 0..40 {
        assert_eq!(seen(), "first");
    }
    fs::rename(&data, HOST.home().join("away")).unwrap();
    symlink(&other, &data).unwrap();
    let first = (0..40).filter(|_| seen() == "first").count();
    // With two workers one might not have been asked before; it opens what is there now.
    assert!(first > 0, "nobody kept the directory");
    grant(&HOST, "pinned", &format!("{}\nargs = [\"anew\"]", mount(&data, "/data", "")));
    assert_eq!(seen(), "second");
}

#[test]
fn a_directory_that_is_missing_is_a_fault_of_the_hosts_until_it_is_there() {
    let data = dir(&HOST, "late");
    grant(&HOST, "late", &mount(&data, "/data", ""));
    fs::remove_dir(&data).unwrap();
    let answer = HOST.get("late", "/?op=list&path=/data");
    answer.expect_fault("directory-unavailable");
    let told = HOST.eventually_told("late", answer.request_id(), "directory-unavailable");
    for word in [data.to_str().unwrap(), "/data", "No such file", "mounts"] {
        assert!(told.text.contains(word), "{word}: {told:?}");
    }
    assert_eq!(HOST.counters("late").guest_faults, 0, "it is not the guest's doing");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("here"), "").unwrap();
    assert_eq!(ask(&HOST, "late", "op=list&path=/data"), "here\n");
}

#[test]
fn scratch_of_a_request_is_empty_and_gone_with_it() {
    grant(&HOST, "passing", "scratch = { per = \"request\", guest = \"/work\" }");
    for _ in 0..6 {
        assert_eq!(ask(&HOST, "passing", "op=list&path=/work"), "\n");
        assert_eq!(ask(&HOST, "passing", "op=write&path=/work/note"), "done\n");
    }
    insula_tests::wait::eventually("every scratch directory is removed", || {
        let place = HOST.data().join("tenants/scratch-of-instances");
        let left = fs::read_dir(place).expect("made by the first request").count();
        (left == 0).then_some(())
    });
}

#[test]
fn scratch_of_a_request_lasts_as_long_as_its_instance() {
    let lines = "scratch = { per = \"request\", guest = \"/work\" }\nreuse = { requests = 100, idle = \"2s\" }";
    grant(&HOST, "reused", lines);
    let mut connection = HOST.connect();
    let mut ask = |query: &str| connection.get("reused.localhost", &format!("/?{query}")).text();
    assert_eq!(ask("op=write&path=/work/note&data=kept"), "done\n");
    assert_eq!(ask("op=read&path=/work/note"), "kept");
}

#[test]
fn scratch_of_a_tenant_is_kept_until_the_tenant_is_removed() {
    let mut host = Host::with_guests(&["hello"]);
    grant(&host, "keeper", "scratch = { per = \"tenant\" }");
    grant(&host, "other", "scratch = { per = \"tenant\" }");
    assert_eq!(ask(&host, "keeper", "op=write&path=/tmp/note&data=kept"), "done\n");
    assert_eq!(ask(&host, "keeper", "op=read&path=/tmp/note"), "kept");
    assert_eq!(ask(&host, "other", "op=list&path=/tmp"), "\n", "it is another tenant's");
    grant(&host, "keeper", "scratch = { per = \"tenant\" }\nargs = [\"changed\"]");
    assert_eq!(ask(&host, "keeper", "op=read&path=/tmp/note"), "kept");
    host.stop(rustix::process::Signal::TERM);
    host.restart();
    assert_eq!(ask(&host, "keeper", "op=read&path=/tmp/note"), "kept");
    host.must(["rm", "keeper"]);
    assert!(!host.data().join("tenants/scratch/keeper").exists());
    grant(&host, "keeper", "scratch = { per = \"tenant\" }");
    assert_eq!(ask(&host, "keeper", "op=list&path=/tmp"), "\n");
}

#[test]
fn a_pipe_cannot_be_opened_and_holds_nobody_up() {
    let data = dir(&HOST, "pipes");
    let pipe = data.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    symlink("pipe", data.join("link")).unwrap();
    fs::write(data.join("file"), "still here").unwrap();
    grant(&HOST, "pipes", &mount(&data, "/data", ", access = \"rw\""));
    for _ in 0..40 {
        for path in ["/data/pipe", "/data/link"] {
            for op in ["raw", "raw-write", "read", "append"] {
                refused("pipes", &format!("op={op}&path={path}"), &["unsupported", "Unsupported"]);
            }
        }
    }
    assert_eq!(ask(&HOST, "pipes", "op=read&path=/data/file"), "still here");
    assert_eq!(ask(&HOST, "pipes", "op=stat&path=/data/link"), "DescriptorType::Unknown 0 bytes\n");
}

#[test]
fn a_guest_with_many_files_open_is_told_and_others_are_not() {
    let data = dir(&HOST, "many");
    fs::write(data.join("file"), "one of many").unwrap();
    grant(&HOST, "many", &mount(&data, "/data", ""));
    let answer = ask(&HOST, "many", "op=open&path=/data/file&n=5000");
    let (open, rest) = answer.split_once(' ').unwrap();
    assert!(open.parse::<u32>().unwrap() <= 256, "{answer}");
    assert!(rest.starts_with("open, then OutOfMemory"), "{answer}");
    // They are closed with the instance.
    for _ in 0..20 {
        assert_eq!(ask(&HOST, "many", "op=open&path=/data/file&n=100"), "100 open\n");
    }
    assert_eq!(ask(&HOST, "many", "op=read&path=/data/file"), "one of many");
}

#[test]
fn a_directory_is_listed_up_to_a_size() {
    let data = dir(&HOST, "crowd");
    for at in 0..2_000 {
        fs::write(data.join(at.to_string()), "").unwrap();
    }
    grant(&HOST, "crowd", &mount(&data, "/data", ""));
    assert_eq!(ask(&HOST, "crowd", "op=list&path=/data"), "2000 entries\n");
    for at in 2_000..50_001 {
        fs::hard_link(data.join("0"), data.join(at.to_string()))
            .or_else(|_| fs::write(data.join(at.to_string()), ""))
            .unwrap();
    }
    refused("crowd", "op=list&path=/data", &["OutOfMemory"]);
    assert_eq!(ask(&HOST, "crowd", "op=read&path=/data/1"), "");
}

/// Bytes of all files in a directory.
fn bytes_in(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// How many bytes went in before it was full.
#[track_caller]
fn until_full(answer: &str) -> u64 {
    let (bytes, rest) = answer.split_once(' ').unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(rest, "bytes, then full\n", "{answer}");
    bytes.parse().unwrap()
}

#[test]
fn a_quota_ends_what_can_be_written() {
    const QUOTA: u64 = 2 << 20;
    let data = dir(&HOST, "bounded");
    grant(&HOST, "bounded", &mount(&data, "/data", ", access = \"rw\", quota = \"2Mi\""));
    assert_eq!(ask(&HOST, "bounded", "op=fill&path=/data/a&n=1000000"), "1000000 bytes\n");
    let more = until_full(&ask(&HOST, "bounded", "op=fill&path=/data/b&n=4000000"));
    assert!(more > 800_000, "full too early: {more}");
    // Another worker may use up its share once.
    let slack = 2 * (64 << 10);
    for turn in 0..12 {
        let answer = ask(&HOST, "bounded", &format!("op=fill&path=/data/c{turn}&n=100000"));
        assert!(!answer.starts_with("100000 "), "{answer}");
    }
    assert!(bytes_in(&data) <= QUOTA + slack, "{} bytes", bytes_in(&data));
    // Reading goes on, and what is removed makes room.
    assert!(ask(&HOST, "bounded", "op=stat&path=/data/a").contains("10000"));
    assert_eq!(ask(&HOST, "bounded", "op=rm&path=/data/a"), "done\n");
    assert_eq!(ask(&HOST, "bounded", "op=fill&path=/data/new&n=500000"), "500000 bytes\n");
}

#[test]
fn a_quota_counts_files_without_a_name_and_those_without_content() {
    let data = dir(&HOST, "sly");
    grant(&HOST, "sly", &mount(&data, "/data", ", access = \"rw\", quota = \"1Mi\""));
    let ghost = until_full(&ask(&HOST, "sly", "op=ghost&path=/data/ghost&n=40000000"));
    assert!((800_000..1_200_000).contains(&ghost), "{ghost}");
    let answer = ask(&HOST, "sly", "op=make&path=/data&n=5000");
    assert!(answer.contains("files, then full"), "{answer}");
    // Each counts as 4 KiB.
    let many = fs::read_dir(&data).unwrap().count();
    assert!((100..=300).contains(&many), "{many} files: {answer}");
}

#[test]
fn scratch_has_a_quota_too() {
    grant(&HOST, "small", "scratch = { per = \"request\", quota = \"1Mi\" }");
    for _ in 0..3 {
        let bytes = until_full(&ask(&HOST, "small", "op=fill&path=/tmp/a&n=4000000"));
        assert!((900_000..=1 << 20).contains(&bytes), "{bytes}");
    }
    grant(&HOST, "lasting", "scratch = { per = \"tenant\", quota = \"1Mi\" }");
    let bytes = until_full(&ask(&HOST, "lasting", "op=fill&path=/tmp/a&n=4000000"));
    assert!((900_000..=1 << 20).contains(&bytes), "{bytes}");
}
