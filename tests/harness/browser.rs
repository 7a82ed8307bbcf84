//! A real browser without a window, driven over the DevTools protocol through a pair of pipes.
//!
//! It reaches this machine alone, keeps its files in a directory of its own, and ends with the test. What
//! it complains of (errors on the console, refusals of the content security policy, requests that failed)
//! is kept for the test to look at.

use crate::process::Server;
use crate::repo;
use crate::wait::{PATIENCE, within};
use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Names under which distributions have it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser.
#[derive(Debug)]
pub struct Browser {
    wire: RefCell<Wire>,
    server: Server,
    home: TempDir,
}

#[derive(Debug)]
struct Wire {
    to: std::io::PipeWriter,
    from: Receiver<Value>,
    last: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts one; none, said aloud, where there is no chromium.
    #[track_caller]
    pub fn start(test: &str) -> Option<Self> {
        let Some(program) = NAMES.iter().find_map(|name| found(name)) else {
            repo::skipped(test, "apt-get install chromium");
            return None;
        };
        let home = tempfile::Builder::new().prefix("insula-browser-").tempdir().expect("directory");
        let (commands, to) = std::io::pipe().expect("pipe");
        let (answers, write) = std::io::pipe().expect("pipe");
        let mut command = Command::new(program);
        command
            .args(["--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-extensions", "--no-proxy-server"])
            .args(["--disable-dev-shm-usage", "--force-color-profile=srgb"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            // Its own sandbox does not work for root; what it shows here is ours.
            command.arg("--no-sandbox");
        }
        let mappings = vec![
            FdMapping { parent_fd: commands.into(), child_fd: 3 },
            FdMapping { parent_fd: write.into(), child_fd: 4 },
        ];
        command.arg("about:blank").fd_mappings(mappings).expect("descriptors");
        let server = Server::start(&mut command, home.path());
        // Holds the far ends, which would keep the pipes open.
        drop(command);
        let (send, from) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("DevTools speak JSON");
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let wire = Wire { to, from, last: 0, complaints: Vec::new() };
        Some(Self { wire: RefCell::new(wire), server, home })
    }

    /// A page that shows `url`.
    #[track_caller]
    pub fn open(&self, url: &str) -> Page<'_> {
        let mut wire = self.wire.borrow_mut();
        let target = wire.call(None, "Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = wire.call(None, "Target.attachToTarget", &attach);
        drop(wire);
        let session = attached["sessionId"].as_str().expect("sessionId").to_owned();
        let page = Page { browser: self, session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.resize(1280, 800);
        page.call("Page.navigate", &json!({"url": url}));
        page
    }

    /// What the browser has complained of so far.
    pub fn complaints(&self) -> Vec<String> {
        self.wire.borrow().complaints.clone()
    }

    /// A directory of the browser's.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own children end with it that way, and not if it were killed.
        let _ = self.wire.borrow_mut().send(None, "Browser.close", &json!({}));
        self.server.wait(Duration::from_secs(5));
    }
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

impl Wire {
    fn send(&mut self, session: Option<&str>, method: &str, params: &Value) -> std::io::Result<()> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes)
    }

    #[track_caller]
    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.send(session, method, params).expect("the browser has ended");
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message =
                self.from.recv_timeout(left).unwrap_or_else(|_| panic!("{method}: no answer"));
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let complaint = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] == "error" => {
                Some(params["args"].to_string())
            }
            "Log.entryAdded"
                if params["entry"]["level"] != "info" && params["entry"]["level"] != "verbose" =>
            {
                Some(params["entry"].to_string())
            }
            "Page.javascriptDialogOpening" => Some(params.to_string()),
            _ => None,
        };
        self.complaints.extend(complaint);
    }
}

/// A page in a browser.
#[derive(Debug)]
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Page<'_> {
    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn call(&self, method: &str, params: &Value) -> Value {
        self.browser.wire.borrow_mut().call(Some(&self.session), method, params)
    }

    /// The value of an expression, in the page.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds; empty if there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let found =
            self.value(&format!("document.querySelector({})?.innerText ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn eventually(&self, expression: &str) {
        let truth = format!("Boolean({expression})");
        let state = || format!("{expression}; the page says {:.2000}", self.text("main"));
        let until = Instant::now() + PATIENCE;
        while self.value(&truth) != json!(true) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {}", state());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key, by its name in `KeyboardEvent.key`, on whatever has the focus.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "Tab" => (9, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            "End" => (35, ""),
            "Home" => (36, ""),
            one => (u32::from(one.as_bytes()[0]), one),
        };
        let mut event = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", &event);
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", &up);
    }

    /// Types a text into whatever has the focus.
    #[track_caller]
    pub fn kind(&self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Clicks into the middle of the first element that a selector finds, as a mouse does.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let at = within(PATIENCE, selector, || {
            let at = self.value(&format!(
                "(() => {{ const e = document.querySelector({}); if (!e) return null; \
                 e.scrollIntoView({{ block: 'center' }}); const b = e.getBoundingClientRect(); \
                 return [b.x + b.width / 2, b.y + b.height / 2]; }})()",
                json!(selector)
            ));
            at.is_array().then_some(at)
        });
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Sets the size of the window, in pixels.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Has the system prefer `light` or `dark`.
    #[track_caller]
    pub fn prefer(&self, scheme: &str) {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// A picture of the window, as PNG in base64; kept as a file where `INSULA_SCREENSHOTS` names a
    /// directory.
    #[track_caller]
    pub fn picture(&self, name: &str) -> String {
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let data = shot["data"].as_str().expect("data").to_owned();
        if let Some(dir) = std::env::var_os("INSULA_SCREENSHOTS") {
            let dir = PathBuf::from(dir);
            std::fs::create_dir_all(&dir).expect("INSULA_SCREENSHOTS");
            let encoded = dir.join(format!("{name}.b64"));
            std::fs::write(&encoded, &data).expect("picture");
            let decoded = Command::new("base64").arg("-d").arg(&encoded).output().expect("base64");
            std::fs::write(dir.join(format!("{name}.png")), decoded.stdout).expect("picture");
            std::fs::remove_file(encoded).expect("picture");
        }
        data
    }

    /// What assistive technology sees: role and name of every node that is not ignored.
    #[track_caller]
    pub fn accessible(&self) -> Vec<(String, String)> {
        self.call("Accessibility.enable", &json!({}));
        let tree = self.call("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes").iter();
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes
            .filter(|node| node["ignored"] != json!(true))
            .map(|node| (text(&node["role"]), text(&node["name"])))
            .collect()
    }
}
