//! `cargo xtask no-c`: no C code in any build of the product.
//!
//! `--quick` builds the workspace for musl with compilers that always fail, reads the dependency
//! graph of every supported target, and builds the pure crates for wasm32. The whole run also
//! checks the other targets, each crate alone, each feature alone, and packages everything.

use crate::workspace::{self, Package};
use crate::{process, tidy::PURE};
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";
const WASM: &str = "wasm32-unknown-unknown";
const OTHER_TARGETS: [&str; 5] = [
    "aarch64-unknown-linux-musl",
    "x86_64-pc-windows-gnu",
    "aarch64-apple-darwin",
    "armv7-unknown-linux-gnueabihf",
    "riscv64gc-unknown-linux-gnu",
];

/// Packages that compile C or look for C libraries.
const C_BUILDERS: [&str; 9] = [
    "bindgen",
    "cc",
    "cmake",
    "cxx-build",
    "nasm-rs",
    "pkg-config",
    "ring",
    "system-deps",
    "vcpkg",
];
/// `-sys` packages that only declare what the system has: nothing of theirs is compiled from C.
const PLAIN_SYS: [&str; 8] = [
    "core-foundation-sys",
    "js-sys",
    "linux-raw-sys",
    "r-efi-sys",
    "web-sys",
    "windows-sys",
    "wasi-sys",
    "security-framework-sys",
];

pub(crate) fn run(quick: bool) -> Result<(), String> {
    let packages = workspace::packages()?;
    let products: Vec<&Package> = packages
        .iter()
        .filter(|package| package.is_product())
        .collect();
    add_targets(if quick { &[] } else { &OTHER_TARGETS })?;

    graph()?;
    let everything = [
        "build",
        "--locked",
        "--workspace",
        "--all-features",
        "--target",
        MUSL,
    ];
    process::run(&mut without_c(everything))?;
    for crate_name in PURE {
        process::run(
            process::cargo().args(["build", "--locked", "-p", crate_name, "--target", WASM]),
        )?;
    }
    if !quick {
        for target in OTHER_TARGETS {
            let check = [
                "check",
                "--locked",
                "--workspace",
                "--all-features",
                "--target",
                target,
            ];
            // What is not published runs where it is developed, and needs not build elsewhere.
            process::run(published(&mut without_c(check), &packages))?;
        }
        for package in &products {
            alone(package)?;
        }
        let package = [
            "package",
            "--locked",
            "--workspace",
            "--no-verify",
            "--allow-dirty",
        ];
        process::run(published(process::cargo().args(package), &packages))?;
    }
    println!("no C: {} crates", products.len());
    Ok(())
}

fn without_c<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = process::cargo();
    command
        .args(arguments)
        .env("CC", "/bin/false")
        .env("CXX", "/bin/false");
    command
}

/// Leaves out what is not for users.
fn published<'a>(command: &'a mut Command, packages: &[Package]) -> &'a mut Command {
    for private in packages.iter().filter(|package| !package.publish) {
        command.args(["--exclude", &private.name]);
    }
    command
}

/// The graph of each target that we support, with every feature.
fn graph() -> Result<(), String> {
    let mut found = Vec::new();
    for target in OTHER_TARGETS
        .into_iter()
        .chain([MUSL, "x86_64-unknown-linux-gnu"])
    {
        let edges = [
            "-e",
            "normal,build",
            "--workspace",
            "--all-features",
            "--locked",
        ];
        let mut arguments = edges.to_vec();
        arguments.extend(["--target", target]);
        let names = workspace::tree(&arguments)?;
        println!("graph of {target}: {} packages", names.len());
        let bad = names.into_iter().filter(|name| brings_c(name));
        found.extend(bad.map(|name| format!("{name} (for {target})")));
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "packages that bring C: {}; `cargo tree -i NAME` says why",
            found.join(", ")
        ))
    }
}

fn brings_c(name: &str) -> bool {
    C_BUILDERS.contains(&name) || (name.ends_with("-sys") && !PLAIN_SYS.contains(&name))
}

/// A crate must build with nothing but itself: alone, without its defaults, with each feature.
fn alone(package: &Package) -> Result<(), String> {
    let name = package.name.as_str();
    process::run(process::cargo().args(["check", "--locked", "-p", name]))?;
    process::run(process::cargo().args([
        "check",
        "--locked",
        "-p",
        name,
        "--no-default-features",
    ]))?;
    for feature in package
        .features
        .iter()
        .filter(|feature| *feature != "default")
    {
        let mut check = process::cargo();
        check.args(["check", "--locked", "-p", name, "--no-default-features"]);
        process::run(check.args(["--features", feature]))?;
    }
    Ok(())
}

/// Adds missing targets by rustup; where there is no rustup, the build says what is missing.
fn add_targets(others: &[&str]) -> Result<(), String> {
    let mut list = Command::new("rustup");
    let Ok(installed) = process::output(list.args(["target", "list", "--installed"])) else {
        eprintln!("no rustup: the targets {MUSL} and {WASM} must be there already");
        return Ok(());
    };
    let wanted = [MUSL, WASM].into_iter().chain(others.iter().copied());
    let has = |target: &str| installed.lines().any(|line| line.trim() == target);
    let missing: Vec<&str> = wanted.filter(|target| !has(target)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    process::run(
        Command::new("rustup")
            .args(["target", "add"])
            .args(&missing),
    )
    .map_err(|error| format!("{error}; install the targets {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_bring_c_are_known() {
        for name in [
            "cc",
            "cmake",
            "bindgen",
            "pkg-config",
            "zstd-sys",
            "openssl-sys",
            "ring",
        ] {
            assert!(brings_c(name), "{name}");
        }
        for name in [
            "windows-sys",
            "linux-raw-sys",
            "wasm-bindgen",
            "wit-bindgen",
            "tokio",
        ] {
            assert!(!brings_c(name), "{name}");
        }
    }
}
