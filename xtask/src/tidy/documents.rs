//! What the manifests and ARCHITECTURE.md must say about every crate.

use crate::workspace::{self, Package};
use std::fs;

/// Every crate that users see has a description, the licence, and words on its front page.
pub(super) fn packages(packages: &[Package]) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        let name = &package.name;
        if !package.license {
            complaints.push(format!("{name}: the licence is MIT OR Apache-2.0"));
        }
        if package.is_product() && package.publish && !package.description {
            complaints.push(format!("{name}: no description in its Cargo.toml"));
        }
        let library = workspace::root().join(&package.folder).join("src/lib.rs");
        let documented = fs::read_to_string(library).is_ok_and(|text| front_page(&text));
        if package.is_product() && !package.readme && !documented {
            complaints.push(format!("{name}: neither a README nor crate docs"));
        }
    }
    complaints
}

fn front_page(text: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix("//!")
            .is_some_and(|words| !words.trim().is_empty())
            || line.contains("#![doc = include_str!")
    })
}

/// ARCHITECTURE.md names every crate, and every crate that it names exists.
pub(super) fn architecture(packages: &[Package]) -> Result<Vec<String>, String> {
    let path = workspace::root().join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).map_err(|error| format!("ARCHITECTURE.md: {error}"))?;
    let names: Vec<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let folders: Vec<String> = packages
        .iter()
        .map(|package| package.folder.to_string_lossy().into_owned())
        .collect();
    Ok(compare(&text, &names, &folders))
}

fn compare(text: &str, names: &[&str], folders: &[String]) -> Vec<String> {
    let words: Vec<&str> = text
        .split(|c: char| !(c.is_alphanumeric() || "-_/".contains(c)))
        .collect();
    let mut complaints = Vec::new();
    for folder in folders {
        if !words.contains(&folder.as_str()) {
            complaints.push(format!("ARCHITECTURE.md does not name {folder}"));
        }
    }
    for word in words {
        let word = word.trim_end_matches('/');
        let gone = match word.strip_prefix("crates/") {
            Some(_) => !folders.iter().any(|folder| is_or_holds(folder, word)),
            None => word.starts_with("ottla-") && !word.ends_with('-') && !names.contains(&word),
        };
        if gone {
            complaints.push(format!(
                "ARCHITECTURE.md names {word}, which does not exist"
            ));
        }
    }
    complaints
}

fn is_or_holds(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_invented_crates_are_flagged() {
        let folders = ["crates/types".to_owned(), "xtask".to_owned()];
        let names = ["ottla-types", "xtask"];
        let good = "`crates/types` (`ottla-types`), see crates/types/src; `xtask`.";
        assert_eq!(compare(good, &names, &folders), Vec::<String>::new());
        let complaints = compare("`crates/gone` (`ottla-gone`), `xtask`", &names, &folders);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }

    #[test]
    fn a_placeholder_is_no_front_page() {
        assert!(front_page("//! What it is for.\n"));
        assert!(front_page("#![doc = include_str!(\"../README.md\")]"));
        assert!(!front_page("//!\nmod x;\n"));
    }
}
