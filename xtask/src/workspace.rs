//! What `cargo metadata` says about the workspace, as far as the checks need it.

use crate::process;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The workspace folder. Taken when this program was built: it only ever runs from its checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Relative to the workspace root, such as `crates/types`.
    pub(crate) folder: PathBuf,
    pub(crate) publish: bool,
    pub(crate) description: bool,
    pub(crate) license: bool,
    pub(crate) readme: bool,
    pub(crate) features: Vec<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Dev,
    Build,
}

impl Package {
    /// A library that users can depend on.
    pub(crate) fn is_product(&self) -> bool {
        self.folder.starts_with("crates")
    }
}

/// All packages of the workspace, sorted by name.
pub(crate) fn packages() -> Result<Vec<Package>, String> {
    let mut command = process::cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps"]);
    let text = process::output(&mut command)?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let list = value["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    let mut packages = list.iter().map(package).collect::<Result<Vec<_>, _>>()?;
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

fn package(value: &Value) -> Result<Package, String> {
    let name = value["name"].as_str().ok_or("a package without a name")?;
    let manifest = Path::new(value["manifest_path"].as_str().unwrap_or_default());
    let folder = manifest
        .parent()
        .and_then(|folder| folder.strip_prefix(root()).ok());
    let dependencies = value["dependencies"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let features = value["features"].as_object();
    Ok(Package {
        name: name.to_owned(),
        folder: folder
            .ok_or_else(|| format!("{name} is outside the workspace"))?
            .to_owned(),
        publish: value["publish"]
            .as_array()
            .is_none_or(|registries| !registries.is_empty()),
        description: value["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        license: value["license"].as_str() == Some("MIT OR Apache-2.0"),
        readme: value["readme"].is_string(),
        features: features
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default(),
        dependencies: dependencies.iter().map(dependency).collect(),
    })
}

fn dependency(value: &Value) -> Dependency {
    Dependency {
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        kind: match value["kind"].as_str() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        },
    }
}

/// The names of all packages that `cargo tree` shows for these arguments, sorted, each once.
pub(crate) fn tree(arguments: &[&str]) -> Result<Vec<String>, String> {
    let mut command = process::cargo();
    command
        .args(["tree", "--prefix", "none", "--format", "{p}"])
        .args(arguments);
    let text = process::output(&mut command)?;
    let first_words = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let mut names: Vec<String> = first_words.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The files that git tracks or would track, relative to the root.
pub(crate) fn files() -> Result<Vec<PathBuf>, String> {
    let mut command = std::process::Command::new("git");
    command
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let text = process::output(&mut command)?;
    let mut files: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    // A file that is deleted and not yet committed is still listed.
    files.retain(|file| root().join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}
