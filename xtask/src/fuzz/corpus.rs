//! What a target keeps: few and small inputs that together reach all that was ever reached.

use super::{Target, emptied};
use crate::workspace;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// An input that is kept is no larger.
pub(super) const INPUT_BYTES_MAX: u64 = 2048;
/// A target keeps no more inputs.
const INPUTS_MAX: usize = 48;

/// Puts what was found and what was kept before together, and keeps the least that reaches as much.
pub(super) fn keep(target: &Target) -> Result<(), String> {
    let mut inputs = sizes(&target.corpus())?;
    inputs.extend(sizes(&target.scratch("found"))?);
    inputs.retain(|(size, _)| *size <= INPUT_BYTES_MAX);
    inputs.sort();
    let inputs: Vec<PathBuf> = inputs.into_iter().map(|(_, path)| path).collect();
    let gains = gains(target, &inputs)?;
    let kept = most(inputs.into_iter().zip(gains).collect());

    // Read before the folder that most of them are in is emptied.
    let mut contents = Vec::new();
    for input in kept {
        let name = input.file_name().map(PathBuf::from).unwrap_or_default();
        let bytes = fs::read(workspace::root().join(&input));
        contents.push((name, bytes.map_err(|error| at(&input, &error))?));
    }
    let corpus = emptied(target.corpus())?;
    for (name, bytes) in &contents {
        let file = corpus.join(name);
        fs::write(workspace::root().join(&file), bytes).map_err(|error| at(&file, &error))?;
    }
    println!("{}: {} inputs are kept", target.name, contents.len());
    Ok(())
}

/// How much each input reaches that none before it does: the inner step of libFuzzer's merge, which
/// takes its orders from a file and writes its findings behind them.
fn gains(target: &Target, inputs: &[PathBuf]) -> Result<Vec<usize>, String> {
    let control = target.scratch("merge");
    let mut orders = format!("{}\n0\n", inputs.len());
    for input in inputs {
        orders.push_str(&format!("{}\n", input.display()));
    }
    let path = workspace::root().join(&control);
    fs::write(&path, orders).map_err(|error| at(&control, &error))?;
    let arguments = [
        "-merge_inner=1".to_owned(),
        format!("-merge_control_file={}", control.display()),
        format!("-artifact_prefix={}", target.scratch("").display()),
    ];
    let said = target.libfuzzer(&arguments).output();
    let said = said.map_err(|error| format!("{} did not start: {error}", target.name))?;
    if !said.status.success() {
        let log = String::from_utf8_lossy(&said.stderr);
        return Err(format!(
            "the inputs of {} were not merged: {log}",
            target.name
        ));
    }
    let findings = fs::read_to_string(&path).map_err(|error| at(&control, &error))?;
    read_gains(&findings, inputs.len())
}

/// Of each input the number of features on its line `FT number feature...`.
fn read_gains(findings: &str, count: usize) -> Result<Vec<usize>, String> {
    let lines = findings.lines().filter_map(|line| line.strip_prefix("FT "));
    let gains: Vec<usize> = lines
        .map(|line| line.split_whitespace().count().saturating_sub(1))
        .collect();
    if gains.len() == count {
        Ok(gains)
    } else {
        Err(format!("{} of {count} inputs were tried", gains.len()))
    }
}

/// Those that gain anything, and of too many those that gain most.
fn most(mut inputs: Vec<(PathBuf, usize)>) -> Vec<PathBuf> {
    inputs.retain(|(_, gain)| *gain > 0);
    inputs.sort_by_key(|(_, gain)| std::cmp::Reverse(*gain));
    inputs.truncate(INPUTS_MAX);
    inputs.into_iter().map(|(input, _)| input).collect()
}

/// The files in a folder, relative to the root, with their sizes.
fn sizes(folder: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(workspace::root().join(folder)).map_err(|error| at(folder, &error))? {
        let entry = entry.map_err(|error| at(folder, &error))?;
        let metadata = entry.metadata().map_err(|error| at(folder, &error))?;
        files.push((metadata.len(), folder.join(entry.file_name())));
    }
    Ok(files)
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Complains of kept inputs that are too many or too large.
pub(crate) fn rules(files: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    let mut counts: BTreeMap<&Path, usize> = BTreeMap::new();
    for file in files {
        let kept = file.components().any(|part| part.as_os_str() == "__fuzz__");
        let Some(folder) = file.parent().filter(|_| kept) else {
            continue;
        };
        *counts.entry(folder).or_default() += 1;
        let size = fs::metadata(workspace::root().join(file));
        let size = size
            .map_err(|error| format!("{}: {error}", file.display()))?
            .len();
        if size > INPUT_BYTES_MAX {
            complaints.push(format!(
                "{}: {size} bytes, {INPUT_BYTES_MAX} at most",
                file.display()
            ));
        }
    }
    let above = counts.into_iter().filter(|(_, count)| *count > INPUTS_MAX);
    complaints.extend(above.map(|(folder, count)| {
        format!("{}: {count} inputs, {INPUTS_MAX} at most", folder.display())
    }));
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_reach_nothing_new_are_not_kept() {
        let findings = "2\n0\na\nb\nSTARTED 0 5\nFT 0 17 4\nCOV 0 1\nSTARTED 1 9\nFT 1\nCOV 1\n";
        let gains = read_gains(findings, 2).unwrap();
        assert_eq!(gains, [2, 0]);
        assert!(read_gains(findings, 3).is_err());
        let inputs = ["a", "b"]
            .map(PathBuf::from)
            .into_iter()
            .zip(gains)
            .collect();
        assert_eq!(most(inputs), [PathBuf::from("a")]);
    }

    #[test]
    fn of_too_many_inputs_those_that_reach_most_are_kept() {
        let inputs = (0..=INPUTS_MAX).map(|gain| (PathBuf::from(gain.to_string()), gain + 1));
        let kept = most(inputs.collect());
        assert_eq!(kept.len(), INPUTS_MAX);
        assert!(!kept.contains(&PathBuf::from("0")));
    }

    #[test]
    fn a_crowded_corpus_is_complained_of() {
        let file = Path::new("xtask/__fuzz__/x/corpus");
        let files: Vec<_> = (0..=INPUTS_MAX)
            .map(|_| PathBuf::from("Cargo.toml"))
            .collect();
        assert_eq!(rules(&files), Ok(Vec::new()));
        let missing: Vec<_> = (0..3).map(|n| file.join(n.to_string())).collect();
        assert!(rules(&missing).is_err());
    }
}
