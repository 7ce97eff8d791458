//! Puppet Server compiled ahead of time.
//!
//! Debian's package compiles its Clojure code at every start, which takes most of it (60 s of processor time, 17 s
//! with this jar). It changes only how long loading takes; Clojure prefers a source file that is newer than its class.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use bunraku_common::Digest;

use super::{make_directory, read_file, write_file};
use crate::{process::output_of, progress::Progress};

pub(super) const PACKAGED_JAR: &str = "/usr/share/puppetserver/puppetserver.jar";
const SERVICES: &str = "/etc/puppet/puppetserver/services.d";

/// Compiles the namespaces given as arguments, and puts the classes into a jar without compression.
const COMPILE: &str = r#"
(let [[classes jar & namespaces] *command-line-args*]
  (binding [*compile-path* classes]
    (doseq [n namespaces] (compile (symbol n))))
  (let [root (.toPath (java.io.File. classes))]
    (with-open [zip (java.util.zip.ZipOutputStream. (java.io.BufferedOutputStream. (java.io.FileOutputStream. jar)))]
      (.setLevel zip 0)
      (doseq [^java.io.File file (file-seq (java.io.File. classes)) :when (.isFile file)]
        (.putNextEntry zip (java.util.zip.ZipEntry. (str (.relativize root (.toPath file)))))
        (clojure.java.io/copy file zip)
        (.closeEntry zip)))))
(shutdown-agents)
"#;

/// The jar for the installed packages; made when it is missing (14 to 21 s, once).
pub(super) fn jar(cache: &Path, progress: &Progress) -> Result<PathBuf> {
    let jar = cache.join(format!("puppetserver-{}.jar", installed_versions()?.short()));
    if jar.exists() {
        return Ok(jar);
    }
    progress.timed(
        "compiled Puppet Server's Clojure code ahead of time (only once: it speeds up every start)",
        || compile(cache, &jar),
    )?;
    Ok(jar)
}

/// A digest of the versions of Puppet Server and its Clojure libraries.
pub(super) fn installed_versions() -> Result<Digest> {
    let query =
        ["-W", "-f", "${Package} ${Version}\n", "puppetserver", "ruby-puppetserver-ca-cli", "*-clojure"];
    let versions = output_of(Command::new("dpkg-query").args(query)).context("could not ask for versions")?;
    Ok(Digest::of(versions.as_bytes()))
}

fn compile(cache: &Path, jar: &Path) -> Result<()> {
    let work = cache.join("compiling");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))?;
    }
    let classes = work.join("classes");
    make_directory(&classes)?;
    write_file(&work.join("compile.clj"), COMPILE)?;

    let class_path = format!("{}:{PACKAGED_JAR}", classes.display());
    let made = work.join("made.jar");
    output_of(
        Command::new("java")
            .args([
                "-Xmx1g",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-cp",
                &class_path,
                "clojure.main",
            ])
            .arg(work.join("compile.clj"))
            .args([&classes, &made])
            .arg("puppetlabs.trapperkeeper.main")
            .args(service_namespaces()?),
    )
    .context("could not compile Puppet Server ahead of time")?;
    fs::rename(&made, jar).with_context(|| format!("could not place {}", jar.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))
}

/// The namespaces of all services that the package lists, with those that are commented out (the disabled CA).
fn service_namespaces() -> Result<Vec<String>> {
    let mut namespaces = Vec::new();
    for file in ["bootstrap.cfg", "ca.cfg"] {
        let list = read_file(&Path::new(SERVICES).join(file))?;
        let lines = list.lines().map(|line| line.trim_start_matches('#'));
        let services = lines.filter_map(|line| line.split_once('/'));
        let named = services.filter(|(namespace, _)| is_namespace(namespace));
        namespaces.extend(named.map(|(namespace, _)| namespace.to_owned()));
    }
    namespaces.dedup();
    Ok(namespaces)
}

fn is_namespace(text: &str) -> bool {
    text.starts_with("puppetlabs.") && !text.contains(' ')
}
