//! A catalog, read for the one number that everything in it must name.

use anyhow::{Context, Result, ensure};
use bunraku_tests::stack::Agent;
use serde_json::Value;

/// What a catalog says about the code it was compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// Of the manifest.
    pub version: u64,
    /// Of Hiera's data.
    pub message: String,
    pub compiler: String,
    pub code_id: String,
    /// SHA-256 of the file that the agent will fetch, as the catalog promises it.
    pub banner: Option<String>,
}

/// Compiles a catalog on `host` (a compiler or the balancer). No answer, or one without all parts, is an error.
pub(crate) fn fetch(agent: &Agent, host: &str, environment: &str) -> Result<Catalog> {
    let json = agent.catalog(host, environment)?;
    read(&json).with_context(|| format!("{host} compiled a catalog that is not whole"))
}

/// Only the number of the manifest: between a swap and the flush that is owed catalogs lack the rest (documented).
pub(crate) fn version(agent: &Agent, host: &str, environment: &str) -> Result<u64> {
    number(word(&agent.catalog(host, environment)?, "module")?)
}

/// The file of a version by code id, from any compiler: status and body.
pub(crate) fn banner_of(agent: &Agent, host: &str, code_id: &str) -> Result<(u16, String)> {
    let path = "modules/motd/files/banner.txt";
    let url = format!(
        "https://{host}:8140/puppet/v3/static_file_content/{path}?environment=production&code_id={code_id}"
    );
    let answer = agent.client().get(&url)?;
    Ok((answer.status, answer.body))
}

fn read(catalog: &Value) -> Result<Catalog> {
    let module = word(catalog, "module")?;
    let banner = resource(catalog, "-banner.txt")?;
    let title = banner["title"].as_str().context("a banner without title")?;
    let checksum = &catalog["metadata"][title]["checksum"];
    ensure!(checksum.is_null() || checksum["type"] == "sha256", "another kind of checksum: {checksum}");
    let sum = checksum["value"].as_str().map(|sum| sum.trim_start_matches("{sha256}").to_owned());
    Ok(Catalog {
        version: number(module)?,
        message: word(catalog, "message")?.to_owned(),
        compiler: word(catalog, "compiler")?.to_owned(),
        code_id: catalog["code_id"].as_str().context("a catalog without code_id")?.to_owned(),
        banner: sum,
    })
}

/// `7` of `v7`.
pub(crate) fn number(version: &str) -> Result<u64> {
    let digits = version.strip_prefix('v').and_then(|digits| digits.parse().ok());
    digits.with_context(|| format!("{version} is no version"))
}

/// The value of `name=value` in the motd's text.
fn word<'a>(catalog: &'a Value, name: &str) -> Result<&'a str> {
    let motd = resource(catalog, "-motd.txt")?;
    let content = motd["parameters"]["content"].as_str().context("a motd without content")?;
    let found = content.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.with_context(|| format!("no {name} in: {content}"))
}

fn resource<'a>(catalog: &'a Value, ending: &str) -> Result<&'a Value> {
    let resources = catalog["resources"].as_array().context("a catalog without resources")?;
    let titled = |resource: &&Value| resource["title"].as_str().is_some_and(|title| title.ends_with(ending));
    resources.iter().find(titled).with_context(|| format!("a catalog without {ending}"))
}
