//! What agents got, counted from Puppet Server's own access log: exact over any time, and not lost with a restart.
//!
//! Its lines are what the packages' request-logging.xml makes of them: `… "REQUEST" STATUS BYTES "REFERER" "AGENT" MS …`
//! (Jetty's `%D` is in milliseconds). The means of the status API fade over five minutes, and know no failures.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    Places,
    doctor::hocon::{self, Value},
    places::conf_files,
};

/// Read at one look. Whoever has more to read has not looked for long.
const AT_ONCE: u64 = 16 << 20;
const CATALOGS: [&str; 2] = ["/puppet/v3/catalog/", "/puppet/v4/catalog"];

/// Requests for catalogs, since somebody began to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub catalogs: u64,
    /// All of them together, in milliseconds.
    pub catalog_ms: u64,
    /// Answered with 4xx or 5xx: also those that got no JRuby in time, and those that auth.conf refuses.
    pub failed: u64,
}

/// Follows the log from its end at the first look, through rotations.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    file: File,
    /// Of the open file, up to the end of its last whole line.
    read: u64,
    counts: Counts,
}

impl AccessLog {
    /// Counts from here on.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn follow(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let read = file.metadata()?.len();
        Ok(Self { path: path.into(), file, read, counts: Counts::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether more was written since the last look than one look reads: what the next looks would count is old. To be
    /// followed anew.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn has_fallen_behind(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len().saturating_sub(self.read) > AT_ONCE)
    }

    /// What came since the last look is counted, too.
    ///
    /// # Errors
    /// When the log cannot be read: what is in it is unknown then, not nothing.
    pub fn look(&mut self) -> io::Result<Counts> {
        self.read_on()?;
        // Rotated: what was written to the old file before is read already.
        let now = fs::metadata(&self.path)?;
        let open = self.file.metadata()?;
        if (now.dev(), now.ino()) != (open.dev(), open.ino()) {
            self.read_on()?;
            (self.file, self.read) = (File::open(&self.path)?, 0);
            self.read_on()?;
        }
        Ok(self.counts)
    }

    fn read_on(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.read {
            self.read = 0;
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut new = Vec::new();
        (&self.file).take(AT_ONCE).read_to_end(&mut new)?;
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in new.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n') {
            self.counts.add(&String::from_utf8_lossy(line));
        }
        self.read += whole as u64;
        Ok(())
    }
}

impl Counts {
    fn add(&mut self, line: &str) {
        let Some((status, ms)) = catalog(line) else { return };
        self.catalogs += 1;
        self.catalog_ms = self.catalog_ms.saturating_add(ms);
        // Also what is refused: an update after which nobody may ask for a catalog has failed.
        self.failed += u64::from(status >= 400);
    }
}

/// Status and milliseconds of a request for a catalog.
fn catalog(line: &str) -> Option<(u16, u64)> {
    let (_, request) = line.split_once('"')?;
    let (method, path) = request.split_once(' ')?;
    if !matches!(method, "GET" | "POST") || !CATALOGS.iter().any(|of| path.starts_with(of)) {
        return None;
    }
    // An agent may put quotes into its request: the status is behind the protocol.
    let (_, answer) = path.split_once(" HTTP/")?;
    let (_, answer) = answer.split_once("\" ")?;
    let status = answer.split(' ').next()?.parse().ok()?;
    // And into its name.
    let (_, rest) = line.rsplit_once("\" ")?;
    Some((status, rest.split(' ').next()?.parse().ok()?))
}

impl Places {
    /// Where webserver.conf has the access log written; `None`: it says nothing that is understood.
    pub fn access_log(&self) -> io::Result<Option<PathBuf>> {
        let mut found = None;
        for path in conf_files(&self.conf_d)? {
            let Ok(root) = hocon::parse(&fs::read_to_string(path)?) else { continue };
            let webserver = root.get("webserver").and_then(|webserver| webserver.get("access-log-config"));
            let Some(logging) = webserver.and_then(Value::text) else { continue };
            found = file_of(&fs::read_to_string(logging)?).or(found);
        }
        Ok(found)
    }
}

/// Of the first appender that writes a file.
fn file_of(logging: &str) -> Option<PathBuf> {
    let (_, rest) = logging.split_once("<file>")?;
    let (file, _) = rest.split_once("</file>")?;
    Some(file.trim().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(request: &str, status: u16, ms: u64) -> String {
        format!(
            "127.0.1.9 - agent1 [24/Nov/2026:09:00:01 +0000] \"{request}\" {status} 812 \"-\" \"Puppet/7.23.0 Ruby/3.1.2-p20 \
             (x86_64-linux-gnu)\" {ms} - {ms}\n"
        )
    }

    fn get(status: u16, ms: u64) -> String {
        line("POST /puppet/v3/catalog/agent1?environment=production HTTP/1.1", status, ms)
    }

    #[test]
    fn only_catalogs_are_counted_and_what_nobody_got_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        fs::write(&path, get(500, 9)).unwrap();
        let mut log = AccessLog::follow(&path).unwrap();
        assert_eq!(log.look().unwrap(), Counts::default(), "what was before is not counted");
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "{}{}{}", get(200, 700), get(503, 30_000), get(404, 3)).unwrap();
        writeln!(file, "{}garbage", line("GET /puppet/v3/node/agent1 HTTP/1.1", 500, 1)).unwrap();
        let counts = Counts { catalogs: 3, catalog_ms: 30_703, failed: 2 };
        assert_eq!(log.look().unwrap(), counts);
        let half = get(200, 7);
        write!(file, "{}", &half[..40]).unwrap();
        assert_eq!(log.look().unwrap(), counts, "half a line is none");
        write!(file, "{}", &half[40..]).unwrap();
        assert_eq!(log.look().unwrap(), Counts { catalogs: 4, catalog_ms: 30_710, ..counts });
    }

    #[test]
    fn a_rotation_loses_nothing_and_counts_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        fs::write(&path, "").unwrap();
        let mut log = AccessLog::follow(&path).unwrap();
        fs::write(&path, get(200, 1)).unwrap();
        fs::rename(&path, dir.path().join("access-1.log")).unwrap();
        assert_eq!(log.look().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, get(200, 1)).unwrap();
        assert_eq!(log.look().unwrap().catalogs, 2);
        fs::write(&path, "").unwrap();
        log.look().unwrap();
        fs::write(&path, get(200, 1)).unwrap();
        assert_eq!(log.look().unwrap().catalogs, 3, "truncated in place");
    }

    /// Regression: what was written between two rollouts was counted bit by bit while the second one baked.
    #[test]
    fn who_has_not_looked_for_long_is_told_so_and_not_given_old_counts_bit_by_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        fs::write(&path, "").unwrap();
        let log = AccessLog::follow(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(AT_ONCE).unwrap();
        assert!(!log.has_fallen_behind().unwrap());
        file.set_len(AT_ONCE + 1).unwrap();
        assert!(log.has_fallen_behind().unwrap());
        assert!(!AccessLog::follow(&path).unwrap().has_fallen_behind().unwrap());
    }

    #[test]
    fn quotes_from_an_agent_change_neither_status_nor_time() {
        let evil = line("GET /puppet/v3/catalog/a\" 200 1 \"x\" \"y\" 1 HTTP/1.1", 500, 77);
        assert_eq!(catalog(evil.trim()), Some((500, 77)));
    }

    #[test]
    fn the_log_is_where_webserver_conf_says() {
        let dir = tempfile::tempdir().unwrap();
        let logging = dir.path().join("request-logging.xml");
        fs::write(
            &logging,
            "<configuration><appender><file> /var/log/a.log </file></appender></configuration>",
        )
        .unwrap();
        let webserver = format!("webserver: {{ access-log-config: \"{}\" }}", logging.display());
        fs::write(dir.path().join("webserver.conf"), webserver).unwrap();
        let places = Places { conf_d: dir.path().into(), services_d: dir.path().into() };
        assert_eq!(places.access_log().unwrap(), Some("/var/log/a.log".into()));
        fs::write(dir.path().join("webserver.conf"), "webserver: { ssl-port: 8140 }").unwrap();
        assert_eq!(places.access_log().unwrap(), None);
    }
}
