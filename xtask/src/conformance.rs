//! `cargo xtask conformance`: what each transport does, as its suite has seen it.
//!
//! The suite (`crates/client/tests/conformance`) leaves a file a test and bed with what it saw. Here
//! they become the table in ARCHITECTURE.md: written with `--write`, else compared. Columns of beds
//! that did not run this time are left as they stand.

use crate::args::{Broker, ConformanceOptions, E2eOptions, Nodes};
use crate::{e2e, process, workspace};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the suite leaves its files; the name of the variable that tells it.
pub(crate) const FOLDER_VARIABLE: &str = "OTTLA_CONFORMANCE_DIR";

const PAGE: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- conformance: written by `cargo xtask conformance --kafka --write` -->";
const END: &str = "<!-- /conformance -->";

/// The beds, in the order of the columns, with their headings.
const BEDS: [(&str, &str); 4] = [
    ("native_on_mock", "`native`, mock"),
    ("native_on_real_broker", "`native`, Kafka"),
    ("rskafka_on_mock", "`rskafka`, mock"),
    ("rskafka_on_real_broker", "`rskafka`, Kafka"),
];

/// What stands where a test does not run on a bed.
const NONE: &str = "";

/// For each test what was seen on each bed.
type Table = BTreeMap<String, [String; BEDS.len()]>;

pub(crate) fn run(options: ConformanceOptions) -> Result<(), String> {
    let folder = fresh_folder()?;
    let mut suite = process::cargo();
    suite.args(["test", "--locked", "--package", "ottla-client"]);
    suite.args(["--test", "conformance"]);
    process::run(suite.env(FOLDER_VARIABLE, &folder))?;
    if options.kafka {
        let scenario = E2eOptions {
            broker: Some(Broker::Kafka),
            nodes: Some(Nodes::One),
            scenario: Some("client-conformance".to_owned()),
            provision: options.provision,
            ..E2eOptions::default()
        };
        e2e::run_with(&scenario, &[(FOLDER_VARIABLE, folder.as_os_str())])?;
    }
    if options.write {
        write(&folder)
    } else {
        check(&folder)
    }
}

/// An empty folder for the suite's files.
pub(crate) fn fresh_folder() -> Result<PathBuf, String> {
    let folder = workspace::root().join("target").join("conformance");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => Ok(folder),
    }
}

/// Whether the page says of the beds that ran what their files say.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    let (page, seen) = (read_page()?, seen(folder)?);
    let complaints = compare(&parse(split(&page)?.1), &seen);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the table in {PAGE} is not what the suite saw (`cargo xtask conformance --kafka --write` writes \
         it):\n  {}",
        complaints.join("\n  ")
    ))
}

fn write(folder: &Path) -> Result<(), String> {
    let (page, seen) = (read_page()?, seen(folder)?);
    let (before, old, after) = split(&page)?;
    let table = render(&merge(parse(old), seen));
    let page = format!("{before}{BEGIN}\n{table}{END}{after}");
    fs::write(workspace::root().join(PAGE), page).map_err(|error| format!("{PAGE}: {error}"))
}

fn read_page() -> Result<String, String> {
    fs::read_to_string(workspace::root().join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))
}

/// The page before the table's mark, the table, and the page after its end.
fn split(page: &str) -> Result<(&str, &str, &str), String> {
    let missing = || format!("{PAGE} has no place for the table:\n{BEGIN}\n{END}");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (table, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok((before, table, after))
}

/// The files of the beds that ran.
fn seen(folder: &Path) -> Result<Table, String> {
    let mut table = Table::new();
    for (column, (bed, _)) in BEDS.iter().enumerate() {
        let folder = folder.join(bed);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", folder.display())),
        };
        for entry in entries {
            let failed = |error| format!("{}: {error}", folder.display());
            let entry = entry.map_err(failed)?;
            let verdict = fs::read_to_string(entry.path()).map_err(failed)?;
            let test = title(&entry.file_name().to_string_lossy());
            table.entry(test).or_default()[column] = verdict;
        }
    }
    if table.is_empty() {
        return Err(format!("the suite left nothing in {}", folder.display()));
    }
    Ok(table)
}

/// `failing.trap_a1_a_throttled_batch` becomes `failing: a throttled batch (A1)`.
fn title(file: &str) -> String {
    let (module, test) = file.split_once('.').unwrap_or(("", file));
    let mut words: Vec<&str> = test.split('_').collect();
    let mut traps = Vec::new();
    if words.first() == Some(&"trap") {
        words.remove(0);
        while words.first().is_some_and(|word| is_trap(word)) {
            traps.push(words.remove(0).to_uppercase());
        }
    }
    let words = words.join(" ");
    if traps.is_empty() {
        format!("{module}: {words}")
    } else {
        format!("{module}: {words} ({})", traps.join(", "))
    }
}

fn is_trap(word: &str) -> bool {
    let number = word.strip_prefix(['a', 'b', 'c', 'd']);
    number.is_some_and(|n| n.parse::<u8>().is_ok()) || word == "d"
}

fn parse(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().filter(|line| line.starts_with('|')).skip(2) {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let Some(test) = cells.next() else { continue };
        let row = table.entry(test.to_owned()).or_default();
        for (cell, text) in row.iter_mut().zip(cells) {
            text.clone_into(cell);
        }
    }
    table
}

fn render(table: &Table) -> String {
    let mut text = String::from("| test |");
    for (_, heading) in BEDS {
        text += &format!(" {heading} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(BEDS.len());
    text.push('\n');
    for (test, row) in table {
        text += &format!("| {test} | {} |\n", row.join(" | "));
    }
    text
}

/// Which columns have anything to say.
fn columns(seen: &Table) -> [bool; BEDS.len()] {
    std::array::from_fn(|column| seen.values().any(|row| row[column] != NONE))
}

/// The old table with the columns that were seen now.
fn merge(old: Table, seen: Table) -> Table {
    let fresh = columns(&seen);
    let mut table = seen;
    for (test, old_row) in old {
        let kept: Vec<_> = old_row.into_iter().enumerate().collect();
        for (column, text) in kept {
            if !fresh[column] && text != NONE {
                table.entry(test.clone()).or_default()[column] = text;
            }
        }
    }
    table
}

fn compare(page: &Table, seen: &Table) -> Vec<String> {
    let fresh = columns(seen);
    let tests = page.keys().chain(seen.keys());
    let tests: std::collections::BTreeSet<_> = tests.collect();
    let none: [String; BEDS.len()] = Default::default();
    let mut complaints = Vec::new();
    for test in tests {
        let of = |table: &Table| table.get(test).unwrap_or(&none).clone();
        let (page, seen) = (of(page), of(seen));
        for (column, (bed, _)) in BEDS.iter().enumerate() {
            if fresh[column] && page[column] != seen[column] {
                complaints.push(format!(
                    "{bed}: {test}: the page says {:?}, the suite {:?}",
                    page[column], seen[column]
                ));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, [&str; 4])]) -> Table {
        let row = |(test, cells): &(&str, [&str; 4])| (test.to_string(), cells.map(str::to_owned));
        rows.iter().map(row).collect()
    }

    #[test]
    fn titles_are_words_with_their_traps_behind() {
        let file = "failing.trap_a2_a3_only_committed_records_are_read";
        assert_eq!(
            title(file),
            "failing: only committed records are read (A2, A3)"
        );
        assert_eq!(title("a.it_reads"), "a: it reads");
    }

    #[test]
    fn a_table_that_was_written_is_read_again() {
        let table = table(&[("a: b", ["yes", "", "no", "yes"]), ("c", ["", "", "", "x"])]);
        assert_eq!(parse(&render(&table)), table);
    }

    #[test]
    fn columns_that_did_not_run_stay_and_are_not_judged() {
        let page = table(&[
            ("a", ["yes", "yes", "yes", "yes"]),
            ("gone", ["yes", "", "", ""]),
            ("b", ["", "yes", "", ""]),
        ]);
        let seen = table(&[("a", ["yes", "", "no", ""]), ("new", ["yes", "", "", ""])]);
        let complaints = compare(&page, &seen);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        let merged = merge(page, seen.clone());
        let expected = table(&[
            ("a", ["yes", "yes", "no", "yes"]),
            ("new", ["yes", "", "", ""]),
            ("b", ["", "yes", "", ""]),
        ]);
        assert_eq!(merged, expected);
        assert_eq!(compare(&merged, &seen), Vec::<String>::new());
    }
}
