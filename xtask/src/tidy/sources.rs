//! Rules on the text of tracked files.

use super::PURE;
use crate::workspace;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file that is longer should be two.
const LINES_MAX: usize = 600;

/// Folders of one machine, and hosts that packages come from: neither belongs in a repository.
/// Written in halves, so that this file passes its own check.
const MACHINE_PATHS: [(&str, &str); 4] = [
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Use", "rs/"),
];
const REGISTRY_HOSTS: [(&str, &str); 9] = [
    ("static.crates", ".io"),
    ("index.crates", ".io"),
    ("repo.maven.", "apache.org"),
    ("repo1.", "maven.org"),
    ("deb.", "debian.org"),
    ("registry.", "npmjs.org"),
    ("proxy.", "golang.org"),
    ("files.python", "hosted.org"),
    ("pypi", ".org"),
];
/// Left behind while writing.
const LEFT_BEHIND: [(&str, &str); 5] = [
    ("dbg", "!("),
    ("todo", "!("),
    ("unimplemented", "!("),
    ("FIX", "ME"),
    ("<<<<<<", "< "),
];
/// Files whose text is made by tools or fixed by others.
const EXEMPT: [&str; 3] = ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"];

pub(super) fn check(files: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    for file in files {
        let exempt = file
            .file_name()
            .is_some_and(|name| EXEMPT.iter().any(|other| name == *other));
        let bytes = fs::read(workspace::root().join(file))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        // A file that is no text has nothing to check.
        if let (Ok(text), false) = (String::from_utf8(bytes), exempt) {
            complaints.extend(file_rules(file, &text));
        }
    }
    Ok(complaints)
}

fn file_rules(file: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let source = file.extension().is_some_and(|extension| extension == "rs");
    let lines = text.lines().count();
    if source && lines > LINES_MAX {
        complaints.push(format!(
            "{}: {lines} lines, the limit is {LINES_MAX}",
            file.display()
        ));
    }
    for (index, line) in text.lines().enumerate() {
        for complaint in line_rules(file, source, line) {
            complaints.push(format!("{}:{}: {complaint}", file.display(), index + 1));
        }
    }
    complaints
}

fn line_rules(file: &Path, source: bool, line: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let has = |(head, tail): &(&str, &str)| line.contains(&format!("{head}{tail}"));
    complaints.extend(
        MACHINE_PATHS
            .iter()
            .filter(|path| has(path))
            .map(|(a, b)| format!("a machine's path, {a}{b}")),
    );
    complaints.extend(
        REGISTRY_HOSTS
            .iter()
            .filter(|host| has(host))
            .map(|(a, b)| format!("a registry's host, {a}{b}")),
    );
    if !source {
        return complaints;
    }
    complaints.extend(
        LEFT_BEHIND
            .iter()
            .filter(|word| has(word))
            .map(|(a, b)| format!("left behind: {a}{b}")),
    );
    let public = line.trim_start().starts_with("pub ");
    let foreign = ["kafka_protocol", "rskafka"];
    if public && foreign.iter().any(|name| names_crate(file, line, name)) {
        complaints.push("a foreign protocol type in a public signature".to_owned());
    }
    let clock = ["Instant::now", "SystemTime::now"]
        .iter()
        .find(|call| line.contains(**call));
    if let (Some(call), true) = (clock, in_pure_crate(file)) {
        complaints.push(format!("{call} in a pure crate: time is passed in"));
    }
    complaints
}

/// Whether a line has a path of that crate, and not of a module of ours with the same name.
fn names_crate(file: &Path, line: &str, name: &str) -> bool {
    let folder = workspace::root().join(file.parent().unwrap_or(file));
    let module = folder.join(name).is_dir() || folder.join(format!("{name}.rs")).is_file();
    let path = if module {
        format!(" ::{name}::")
    } else {
        format!("{name}::")
    };
    line.contains(&path)
}

fn in_pure_crate(file: &Path) -> bool {
    let folder = |name: &str| {
        Path::new("crates")
            .join(name.trim_start_matches("ottla-"))
            .join("src")
    };
    PURE.iter().any(|name| file.starts_with(folder(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(file: &str, text: &str) -> usize {
        file_rules(Path::new(file), text).len()
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let path = MACHINE_PATHS[0];
        assert_eq!(
            complaints("README.md", &format!("see {}{}x", path.0, path.1)),
            1
        );
        let host = REGISTRY_HOSTS[0];
        assert_eq!(
            complaints("x.toml", &format!("https://{}{}", host.0, host.1)),
            1
        );
        let word = LEFT_BEHIND[0];
        assert_eq!(
            complaints("src/x.rs", &format!("{}{}x)", word.0, word.1)),
            1
        );
        assert_eq!(complaints("src/x.rs", &"\n".repeat(LINES_MAX + 1)), 1);
        assert_eq!(
            complaints("src/x.rs", "    pub fn f() -> kafka_protocol::Message;"),
            1
        );
        assert_eq!(
            complaints("crates/group/src/x.rs", "let now = Instant::now();"),
            1
        );
    }

    #[test]
    fn plain_files_pass() {
        assert_eq!(
            complaints("crates/client/src/x.rs", "let now = Instant::now();"),
            0
        );
        assert_eq!(
            complaints("src/x.rs", "pub(crate) use kafka_protocol::messages;"),
            0
        );
        assert_eq!(complaints("notes.md", &"\n".repeat(LINES_MAX + 1)), 0);
    }
}
