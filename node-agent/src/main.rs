//! `bunraku-agent`: see `bunraku-agent --help`. Called as `code-id` or `code-content`, it is that helper.

use std::process::ExitCode;

fn main() -> ExitCode {
    bunraku_agent::cli::main()
}
