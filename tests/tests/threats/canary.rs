//! T18 with the real programs: what they print, log and show in the list of processes, with every secret of a fleet as
//! the canary.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bunraku_tests::{
    fleet::{Fleet, until},
    installed::program,
    process::Service,
};

/// Arguments and environments of all processes of this host, looked at all the time.
struct Onlooker {
    seen: Arc<Mutex<BTreeSet<String>>>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Onlooker {
    fn begin() -> Self {
        let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let end = Arc::new(AtomicBool::new(false));
        let (to, until) = (Arc::clone(&seen), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let found: Vec<String> = processes().collect();
                to.lock().unwrap().extend(found);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { seen, end, thread }
    }

    fn end(self) -> BTreeSet<String> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn processes() -> impl Iterator<Item = String> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok().filter(|command| !command.is_empty())?;
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        Some(String::from_utf8_lossy(&[command, environment].concat()).replace('\0', " "))
    })
}

/// A private key is told from another by its second line: the first and the last are everybody's.
fn private_keys(below: &Path) -> Vec<(PathBuf, String)> {
    let found = Command::new("grep").args(["-rl", "PRIVATE KEY"]).arg(below).output().unwrap();
    let files = String::from_utf8(found.stdout).unwrap();
    let key = |path: &str| Some((path.into(), fs::read_to_string(path).ok()?.lines().nth(1)?.to_owned()));
    files.lines().filter_map(key).collect()
}

/// The programs as an operator calls them; what they said is kept.
struct Shell {
    socket: PathBuf,
    said: String,
}

impl Shell {
    /// Both outputs; a command that prints a token is called with `keep` off.
    fn run(&mut self, name: &str, args: &[&str], input: &str, keep: bool) -> (bool, String) {
        let mut command = program(name).unwrap();
        if name == "bunraku" {
            command.arg("--socket").arg(&self.socket);
        }
        let command = command.args(args).env("BUNRAKU_LOG", "trace");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let out = String::from_utf8(done.stdout).unwrap();
        self.said.push_str(&String::from_utf8_lossy(&done.stderr));
        if keep {
            self.said.push_str(&out);
        }
        (done.status.success(), out)
    }

    fn bunraku(&mut self, line: &str) {
        let args: Vec<&str> = line.split(' ').collect();
        let (good, out) = self.run("bunraku", &args, "", true);
        assert!(good, "{line}: {out}{}", self.said);
    }

    /// The token that a command prints, once, for the one who asked.
    fn token(&mut self, line: &str) -> String {
        let args: Vec<&str> = line.split(' ').chain(["-o", "json"]).collect();
        let (good, out) = self.run("bunraku", &args, "", false);
        assert!(good, "{line}: {}", self.said);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        json["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t18_no_secret_is_in_an_argument_an_environment_a_log_or_an_output_of_the_programs() {
    let onlooker = Onlooker::begin();
    let mut fleet = Fleet::new().nodes(1).up().await;
    fleet.node("c1").stop().await;
    fleet.main_mut().stop().await;
    let logs = [fleet.path("controller.log"), fleet.path("c1.log")];
    let spawn = |name: &str, verb: &str, config: String, log: &Path| {
        let path = log.with_extension("toml");
        fs::write(&path, config).unwrap();
        let mut command = program(name).unwrap();
        command.arg(verb).arg("--config").arg(path).env("BUNRAKU_LOG", "trace");
        Service::spawn(name, &mut command, log).unwrap()
    };
    let config = toml::to_string(fleet.main().config()).unwrap();
    let controller = spawn("bunraku", "serve", config, &logs[0]);
    let agent = spawn("bunraku-agent", "run", toml::to_string(&fleet.node("c1").config()).unwrap(), &logs[1]);
    until("the controller answers", || async {
        fleet.main().client().status(bunraku_proto::v1::StatusRequest {}).await.is_ok()
    })
    .await;
    fleet.main().until_connected("c1").await;

    let mut shell = Shell { socket: fleet.main().config().socket.clone(), said: String::new() };
    let used = shell.token("token create c2 --role compiler");
    let waiting = shell.token("token create c3 --role compiler");
    let operators = shell.token("operator add ann --right admin");
    let mut second = fleet.node("c1").config();
    second.data_dir = fleet.path("c2");
    second.name = Some("c2".parse().unwrap());
    let second_config = fleet.path("c2.toml").display().to_string();
    fs::write(&second_config, toml::to_string(&second).unwrap()).unwrap();
    let pin = fleet.main().pin().to_string();
    let enroll = ["enroll", "--config", &second_config, "--pin", &pin, "--token-file", "-"];
    assert!(shell.run("bunraku-agent", &enroll, &used, true).0, "{}", shell.said);
    assert!(!shell.run("bunraku-agent", &enroll, &used, true).0, "a token works once");
    assert!(!shell.run("bunraku-agent", &enroll, &waiting, true).0, "it is for c3");
    let token_file = fleet.path("token");
    fs::write(&token_file, &operators).unwrap();
    let (token_file, identity) = (token_file.display().to_string(), fleet.path("ann").display().to_string());
    let address = fleet.main().address().to_string();
    let login = format!("login --controller {address} --pin {pin} --name ann --token-file {token_file}");
    shell.bunraku(&format!("{login} --identity {identity}"));
    shell.bunraku("nodes hold c2 --reason test");
    shell.bunraku("deploy production");
    for line in [
        "status",
        "nodes list",
        "nodes show c1",
        "token list",
        "operator list",
        "deploys list",
        "deploys show 1",
        "environments list",
        "snapshots list",
        "events",
        "audit list",
        "audit verify",
        "lb status",
        "rollout list",
    ] {
        shell.bunraku(line);
        shell.bunraku(&format!("{line} -o json"));
    }
    let _findings = shell.run("bunraku", &["doctor"], "", true);

    let keys = private_keys(&fleet.path(""));
    for place in ["main/data/ca/ca.key", "c1/data/identity", "c1/key.pem", "c2/identity", "ann"] {
        let place = fleet.path(place);
        assert!(keys.iter().any(|(path, _)| path.starts_with(&place)), "a key below {}", place.display());
    }
    let tokens = [("used", used), ("waiting", waiting), ("operator's", operators)];
    let tokens = tokens.map(|(whose, token)| (PathBuf::from(whose), token));
    let seen = onlooker.end();
    for of in ["bunraku-agent", "bunraku ", "git "] {
        assert!(seen.iter().any(|process| process.contains(of)), "{of} was seen at work");
    }
    assert!(seen.iter().any(|process| process.contains(&pin)), "what is an argument is seen: the pin is");
    let logged: String = logs.iter().map(|log| fs::read_to_string(log).unwrap()).collect();
    assert!(logged.contains("token-created") && logged.len() > 10_000, "the logs are heard");
    for (whose, secret) in keys.iter().chain(&tokens) {
        let whose = whose.display();
        assert!(!shell.said.contains(secret), "{whose} in an output");
        assert_eq!(logged.lines().find(|line| line.contains(secret)), None, "{whose} in a log");
        assert_eq!(seen.iter().find(|process| process.contains(secret)), None, "{whose} in /proc");
    }
    agent.stop(Duration::from_secs(20)).unwrap();
    controller.stop(Duration::from_secs(20)).unwrap();
}
