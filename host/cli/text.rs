//! Numbers, times and foreign text in the form that people read.

use jiff::Timestamp;
use std::fmt::Write;

/// `812 B`, `44.1 KiB`, `1.5 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// `812`, `44.1k`, `1.5G`.
pub(crate) fn count(value: u64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"], "")
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn scaled(value: u64, step: f64, units: &[&str], gap: &str) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while scaled >= step - 0.05 && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    if unit == 0 {
        format!("{value}{gap}{}", units[0])
    } else {
        format!("{scaled:.1}{gap}{}", units[unit])
    }
}

/// `812 ms`, `1.2 s`, `3 min 20 s`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn milliseconds(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} ms"),
        1_000..60_000 => format!("{:.1} s", value as f64 / 1_000.0),
        _ => format!("{} min {} s", value / 60_000, value % 60_000 / 1_000),
    }
}

/// `0.05 ms`, `3.2 ms`, `120 ms`, `2.5 s`: two digits that matter.
pub(crate) fn short_ms(ms: f64) -> String {
    match ms {
        ..0.995 => format!("{ms:.2} ms"),
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

/// `3 minutes ago`, from an RFC 3339 time; the text itself if it is none.
pub(crate) fn age(at: &str) -> String {
    let Ok(then) = at.parse::<Timestamp>() else {
        return printable(at);
    };
    let seconds = Timestamp::now().as_second() - then.as_second();
    let (value, unit) = match seconds {
        ..0 => return "just now".into(),
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{value} {} ago", plural(value.unsigned_abs(), unit))
}

/// `12s`, `5m`, `3h`, `2d`: how far an RFC 3339 time is from now, either way.
pub(crate) fn distance(at: &str) -> String {
    let Ok(then) = at.parse::<Timestamp>() else {
        return printable(at);
    };
    let seconds = (Timestamp::now().as_second() - then.as_second()).unsigned_abs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `tenant` or `tenants`.
pub(crate) fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `text` on one line, with everything escaped that could drive a terminal or reorder what is shown:
/// control characters, and Unicode's direction marks and line separators. Tabs stay.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, |c| c == '\t')
}

/// As [`printable`], but line ends stay too: for messages of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    escaped(text, |c| c == '\t' || c == '\n')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let drives = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if !drives || stays(c) {
            shown.push(c);
        } else if c.is_ascii() {
            let _ = write!(shown, "\\x{:02x}", u32::from(c));
        } else {
            shown.extend(c.escape_unicode());
        }
    }
    shown
}

/// `text` as a value in a query (RFC 3986): all but the unreserved characters as `%XX`.
pub(crate) fn encoded(text: &str) -> String {
    let mut query = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                query.push(char::from(byte));
            }
            _ => {
                let _ = write!(query, "%{byte:02X}");
            }
        }
    }
    query
}

/// `text` as one word of a POSIX shell, for commands that are printed to be copied.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// How to call this program from the user's shell: `insula`, or the path it was started by.
pub(crate) fn program() -> String {
    std::env::args_os()
        .next()
        .and_then(|arg| arg.into_string().ok())
        .filter(|arg| !arg.is_empty())
        .map_or_else(|| "insula".into(), |arg| shell_word(&arg))
}
