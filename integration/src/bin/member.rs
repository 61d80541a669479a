//! One member of a group in the scenarios that stop, kill and freeze members. Its one argument is its
//! options as JSON; it stops gracefully on SIGINT or SIGTERM.

use ottla::consumer::shutdown_signal;
use ottla_integration::member;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let options = match serde_json::from_str(&argument) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\nusage: member JSON");
            return ExitCode::from(2);
        }
    };
    let stop = async {
        if let Err(error) = shutdown_signal().await {
            eprintln!("error: {error}");
        }
    };
    match member::run(options, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {}", ottla::types::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}
