//! `bunraku`: see `bunraku --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bunraku::cli::main()
}
