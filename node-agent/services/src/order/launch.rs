//! What starts the script of an order so that it outlives this agent, and the script.

use std::{fmt, io, path::Path};

use futures_util::future::BoxFuture;

use super::OrderId;
use crate::systemd::BusError;

/// Runs one command, once: `link` of a name that is there fails. A fixed text; the command comes as its arguments.
///
/// The result is on disk before its name is.
pub(super) const SCRIPT: &str = r#"
cd "$1" || exit 125
shift
umask 077
cat /proc/$$/stat > process.$$ && ln process.$$ process
first=$?
rm -f process.$$
[ $first = 0 ] || exit 125
: > output
(umask 022; cd / && exec "$@") >> output 2>&1 < /dev/null
code=$?
echo $code > code.new && sync -d code.new output && mv code.new code && sync .
exit $code
"#;

/// The script's name where processes are listed.
pub(super) const NAME: &str = "bunraku-order";

/// Puppet's own packages keep their programs outside the usual path.
pub(super) const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/opt/puppetlabs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
];

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("systemd did not take unit {unit}")]
    Bus {
        unit: String,
        #[source]
        source: BusError,
    },
    #[error("could not run setsid (hint: it comes with util-linux)")]
    Setsid(#[source] io::Error),
}

/// What makes a command outlive this agent.
pub trait Launch: fmt::Debug + Send + Sync {
    /// Starts the script with this directory. May be called again: the script itself runs the command only once.
    fn launch<'a>(
        &'a self,
        id: &'a OrderId,
        directory: &'a Path,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<(), LaunchError>>;

    /// Whether a script that was started is about to begin.
    fn is_pending<'a>(&'a self, id: &'a OrderId) -> BoxFuture<'a, Result<bool, LaunchError>>;

    /// Lets go of an order that has ended.
    fn forget<'a>(&'a self, id: &'a OrderId) -> BoxFuture<'a, Result<(), LaunchError>>;
}
