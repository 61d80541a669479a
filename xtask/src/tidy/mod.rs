//! `cargo xtask tidy`: what ARCHITECTURE.md claims, checked.
//!
//! Every check adds its complaints to one list, so that one run shows all of them.

mod dependencies;
mod documents;
mod sources;

use crate::{fuzz, workspace};

/// Crates without IO, clock or randomness of their own.
pub(crate) const PURE: [&str; 3] = ["ottla-group", "ottla-record-batch", "ottla-types"];

pub(crate) fn run() -> Result<(), String> {
    let packages = workspace::packages()?;
    let files = workspace::files()?;
    let mut complaints = dependencies::directions(&packages);
    complaints.extend(dependencies::graphs(&packages)?);
    complaints.extend(documents::packages(&packages));
    complaints.extend(documents::architecture(&packages)?);
    complaints.extend(sources::check(&files)?);
    complaints.extend(fuzz::rules(&files)?);
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    if complaints.is_empty() {
        println!(
            "tidy: {} packages and {} files in order",
            packages.len(),
            files.len()
        );
        Ok(())
    } else {
        Err(format!("{} things are not tidy", complaints.len()))
    }
}
