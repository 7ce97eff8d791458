//! The password of a repository, from the operator's file to the server that asks for it, and nowhere else.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use bunraku_builder::{BuildConfig, BuildError, Builder, Kind};

use crate::world::{BOTH, World, build};

const PASSWORD: &str = "canary-5d0e9b72";
/// `deploy:canary-5d0e9b72`
const AUTHORIZATION: &str = "Basic ZGVwbG95OmNhbmFyeS01ZDBlOWI3Mg==";

/// Git over HTTP with a password (a stand-in: files as they are, what git calls the dumb protocol). Before each answer,
/// while git waits for it, it looks at all processes of this host.
struct GitServer {
    address: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    let_in: Vec<String>,
    turned_away: usize,
    looked_at: usize,
    /// Processes with the password in their arguments or environment.
    exposed: Vec<String>,
}

impl GitServer {
    fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (to, root) = (Arc::clone(&seen), root.to_owned());
        // Ends with the process: a listener in `accept` cannot be woken, and nothing else waits for it.
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let (to, root) = (Arc::clone(&to), root.clone());
                std::thread::spawn(move || answer(peer.unwrap(), &root, &to));
            }
        });
        Self { address, seen }
    }

    fn url(&self, repository: &str) -> String {
        format!("http://{}/{repository}/.git", self.address)
    }
}

fn answer(peer: TcpStream, root: &Path, seen: &Mutex<Seen>) {
    let mut lines = BufReader::new(&peer).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let authorized = lines.filter_map(|line| line.strip_prefix("Authorization: ").map(str::to_owned)).last();
    let path: PathBuf = root.join(request.split([' ', '?']).nth(1).unwrap().trim_start_matches('/'));
    let mut seen = seen.lock().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let dir = entry.unwrap().path();
        let command = fs::read(dir.join("cmdline")).ok()?;
        let environment = fs::read(dir.join("environ")).unwrap_or_default();
        Some(String::from_utf8_lossy(&[command, environment].concat()).into_owned())
    });
    for process in processes {
        seen.looked_at += usize::from(process.starts_with("git") || process.contains("/git-"));
        if process.contains(PASSWORD) {
            seen.exposed.push(process);
        }
    }
    let (status, body) = if authorized.as_deref() == Some(AUTHORIZATION) {
        seen.let_in.push(request);
        fs::read(path).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body))
    } else {
        seen.turned_away += 1;
        ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"", Vec::new())
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // A git that was ended does not wait for its answer.
    let _gone = (&peer).write_all(&[head.as_bytes(), &body].concat());
}

/// Control repository and module, both behind a password.
fn behind_a_password(world: &World, server: &GitServer, kind: Kind) -> BuildConfig {
    let module = format!("mod 'ntp', :git => '{}', :branch => 'main'\n", server.url("ntp"));
    world.commit("control", "production", &[("Puppetfile", &module)]);
    for repository in ["control", "ntp"] {
        world.git(repository, &["update-server-info"]);
    }
    BuildConfig { remote: server.url("control"), transports: vec!["http".to_owned()], ..world.config(kind) }
}

fn credentials(world: &World, server: &GitServer) -> PathBuf {
    let path = world.path("credentials");
    fs::write(&path, format!("http://deploy:{PASSWORD}@{}\n", server.address)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn t18_a_password_reaches_the_server_that_asks_for_it_and_no_argument_environment_or_output() {
    for kind in BOTH {
        let world = World::new();
        let server = GitServer::start(world.root());
        let config = behind_a_password(&world, &server, kind);
        let refused = build(&world.builder_with(config.clone()), "production").await.unwrap_err();
        assert!(matches!(refused, BuildError::Run(_)), "without a password: {refused:?}");
        let git_credentials = Some(credentials(&world, &server));
        let builder = world.builder_with(BuildConfig { git_credentials, ..config });
        let built = build(&builder, "production").await.unwrap();
        assert!(!built.output.contains(PASSWORD), "{}", built.output);
        {
            let seen = server.seen.lock().unwrap();
            for repository in ["control", "ntp"] {
                let heads = format!("GET /{repository}/.git/info/refs");
                assert!(seen.let_in.iter().any(|request| request.starts_with(&heads)), "{:?}", seen.let_in);
            }
            assert!(seen.turned_away > 0 && seen.looked_at > 0, "{kind:?}: the programs were seen at work");
            assert_eq!(seen.exposed, Vec::<String>::new(), "{kind:?}");
        }
        let found = Command::new("grep").args(["-rlaF", PASSWORD]).arg(world.path("build")).output().unwrap();
        let copy = world.path("build/credentials");
        assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), copy.display().to_string());
        assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o400);
        // A wrong password changes nothing in the operator's file, as git's own store would.
        let wrong = format!("http://deploy:wrong@{}\n", server.address);
        fs::write(world.path("credentials"), &wrong).unwrap();
        builder.branches().await.unwrap_err();
        assert_eq!(fs::read_to_string(world.path("credentials")).unwrap(), wrong);
        assert_eq!(fs::read_to_string(world.path("build/credentials")).unwrap(), wrong);
    }
}

#[test]
fn t18_a_password_in_the_control_repositorys_address_is_refused_and_the_hint_says_where_it_belongs() {
    let world = World::new();
    let remote = format!("https://deploy:{PASSWORD}@git.test/control.git");
    let refused = Builder::new(BuildConfig { remote, ..world.config(Kind::R10k) }, Arc::clone(&world.store));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("`git_credentials`") && !text.contains(PASSWORD), "{text}");
}
