//! What each test saw, for the table in ARCHITECTURE.md.
//!
//! A test that ends well with a transport that cannot do the thing has seen how it says so; it notes
//! that with [`lacks`]. With `OTTLA_CONFORMANCE_DIR` set, every test that ends well leaves a file
//! `DIR/BED/MODULE.TEST` with `yes` or with what is lacking; `cargo xtask conformance` reads them.

use std::cell::Cell;
use std::fs;
use std::path::Path;

tokio::task_local! {
    static LACKING: Cell<Option<&'static str>>;
}

/// The transport does not do this, and the test has seen that it does `instead`.
pub(crate) fn lacks(instead: &'static str) {
    LACKING.with(|lacking| lacking.set(Some(instead)));
}

/// Runs a test and writes its verdict down. `test` is the module and the name, as `stringify!` gives
/// them.
pub(crate) async fn of(bed: &str, test: &str, run: impl Future<Output = ()>) {
    let seen = LACKING.scope(Cell::new(None), async {
        run.await;
        LACKING.with(Cell::get)
    });
    let seen = seen.await.unwrap_or("yes");
    if let Some(folder) = std::env::var_os("OTTLA_CONFORMANCE_DIR") {
        let folder = Path::new(&folder).join(bed);
        fs::create_dir_all(&folder).unwrap();
        let name: String = test.split_whitespace().collect();
        fs::write(folder.join(name.replace("::", ".")), seen).unwrap();
    }
}
