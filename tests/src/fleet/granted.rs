//! What an agent grants to rollouts in tests: a service that counts its starts, Puppet runs, and two commands.

use std::{fs, process::Command};

use super::Node;

/// Counts its starts and its reloads, and says that it is up in the file that its own words name.
const SERVER: &str = r#"
trap 'echo reload >> "$1"; echo 1 > "$3"' HUP
trap 'exit 0' TERM
echo start >> "$1"; echo 1 > "$3"
while :; do sleep 600 & wait $!; kill $! 2>/dev/null; done"#;

/// Grants its service, Puppet runs, and two commands; conf.d is real.
pub fn grant(config: &mut bunraku_agent::Config) {
    let dir = config.data_dir.parent().unwrap().to_owned();
    let path = |name: &str| dir.join(name).display().to_string();
    fs::create_dir_all(dir.join("conf.d")).unwrap();
    fs::write(dir.join("conf.d/webserver.conf"), "webserver: { ssl-port: 8140 }").unwrap();
    config.puppet.conf_d = Some(dir.join("conf.d"));
    let mut words = vec!["/bin/sh".to_owned(), "-c".to_owned(), SERVER.to_owned(), "java".to_owned()];
    words.extend([path("did"), "--restart-file".to_owned(), path("restart")]);
    let service = serde_json::json!({
        "driver": "process", "pid_file": path("pid"), "command": words, "restart_file": path("restart"),
        "stop_seconds": 20,
    });
    config.services = serde_json::from_value(serde_json::json!({ "puppetserver": service })).unwrap();
    config.rollout.puppet_run = true;
    let say = |what: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), what.to_owned(), path("said")];
    config.rollout.exec = [
        ("say".to_owned(), say("echo said >> \"$0\"")),
        ("fail".to_owned(), say("echo no such luck >&2; exit 3")),
        ("near".to_owned(), vec!["sh".to_owned()]),
    ]
    .into();
}

/// Lines of what the node's service (`did`), its command (`said`) or its `puppet agent --test` (`runs`) left.
pub fn left(node: &Node, file: &str) -> Vec<String> {
    let text = fs::read_to_string(node.dir().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Ends what outlives its agent on purpose.
pub fn end_services(node: &Node) {
    if let Ok(pid) = fs::read_to_string(node.dir().join("pid")) {
        let _ended_already = Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    }
}
