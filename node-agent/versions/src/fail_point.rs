//! Places at which tests interrupt a stage or a swap.

use std::io;

/// A place where tests make a step fail (`failpoints` feature), or kill the process (debug builds); else nothing.
pub(crate) fn fail_point(name: &'static str) -> io::Result<()> {
    bunraku_common::crash::point(name);
    fail::fail_point!(name, |_| Err(io::Error::other(format!("fail point {name}"))));
    Ok(())
}
