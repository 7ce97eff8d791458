//! T18: the control repository's password, tokens and keys: they are in no log, error, record, event or
//! answer, and in no file but their own.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use bunraku_proto::{Door, v1};
use bunraku_tests::fleet::{Fleet, MainServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::raw::{Client, address_in, enrol, operator, token_for};

const PASSWORD: &str = "canary-9f2c41d7";

/// Everything that any program of this process logs, however detailed.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logs {
    fn listen() -> Self {
        let logs = Self::default();
        let to = logs.clone();
        let filter = "debug,bunraku=trace,bunraku_agent=trace,bunraku_builder=trace,bunraku_proto=trace";
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(move || to.clone())
            .finish();
        tracing_subscriber::util::SubscriberInitExt::try_init(subscriber).unwrap();
        logs
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A git server over plain HTTP that wants a password.
async fn git_over_http(main: &MainServer, root: &Path) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind((address_in(main, 90), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let root = root.to_owned();
    let serving = tokio::spawn(async move {
        while let Ok((peer, _)) = listener.accept().await {
            let root = root.clone();
            tokio::spawn(async move { answer(peer, &root).await });
        }
    });
    (format!("http://{address}/control/.git"), serving)
}

async fn answer(mut peer: TcpStream, root: &Path) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(peer.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(['?', ' ']).nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let (status, body) = match fs::read(root.join(path)) {
        _ if !request.to_lowercase().contains("authorization: basic") => {
            ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"", Vec::new())
        }
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    peer.write_all(&[head.as_bytes(), &body].concat()).await
}

/// Everything that the controller tells anybody.
async fn told(main: &MainServer) -> String {
    let mut told = format!("{:?}", main.status().await);
    for record in main.audit().await {
        told.push_str(&format!("{record:?}"));
    }
    for event in main.events_after(0).await {
        told.push_str(&format!("{event:?}"));
    }
    let deploys = main.client().list_deploys(v1::ListDeploysRequest::default()).await.unwrap().into_inner();
    for deploy in deploys.deploys {
        told.push_str(&format!("{:?}", main.show_deploy(deploy.id).await));
    }
    for answer in [
        format!("{:?}", main.client().list_tokens(v1::ListTokensRequest {}).await.unwrap()),
        format!("{:?}", main.client().list_operators(v1::ListOperatorsRequest {}).await.unwrap()),
        format!("{:?}", main.client().list_snapshots(v1::ListSnapshotsRequest::default()).await.unwrap()),
        format!("{:?}", main.client().list_environments(v1::ListEnvironmentsRequest {}).await.unwrap()),
        format!("{:?}", main.client().doctor(v1::DoctorFleetRequest::default()).await.unwrap()),
    ] {
        told.push_str(&answer);
    }
    told
}

/// Files below a directory that hold this text.
fn files_with(root: &Path, text: &str) -> Vec<String> {
    let found = Command::new("grep").args(["-rlaF", "--", text]).arg(root).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t18_passwords_tokens_and_keys_are_in_no_log_record_event_answer_or_snapshot() {
    let logs = Logs::listen();
    let mut fleet = Fleet::new().nodes(1).up().await;
    let info = ["-c", "safe.directory=*", "update-server-info"];
    let control = fleet.path("git/control");
    assert!(Command::new("git").args(info).current_dir(&control).status().unwrap().success());
    let (remote, serving) = git_over_http(fleet.main(), &fleet.path("git")).await;
    let credentials = fleet.path("git-credentials");
    let line = remote.replace("/control/.git", "").replace("http://", &format!("http://deploy:{PASSWORD}@"));
    fs::write(&credentials, line).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    fleet.main_mut().config_mut().build.remote = remote;
    fleet.main_mut().config_mut().build.git_credentials = Some(credentials);
    fleet.main_mut().config_mut().build.transports.push("http".into());
    fleet.main_mut().restart().await;
    fleet.main().until_connected("c1").await;

    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "the password opens the repository: {deploy:#?}");
    let used = token_for(fleet.main(), "c2", "compiler", 0).await.token;
    let door = Client::new(fleet.main(), Door::Enroll, None);
    let holder = enrol(&door, "c2", &used).await.unwrap();
    let again = enrol(&door, "c2", &used).await.err().unwrap();
    let waiting = token_for(fleet.main(), "c3", "compiler", 0).await.token;
    let for_another = enrol(&door, "c4", &waiting).await.err().unwrap();
    operator(fleet.main(), "ann", "admin").await;
    // The remote fails in every way that names it.
    serving.abort();
    let _ended = serving.await;
    let failed = fleet.main().ask_deploy("production").await;
    let failed = match failed {
        Ok(id) => format!("{:?}", fleet.main().until_ended(id).await),
        Err(status) => format!("{status:?}"),
    };
    assert!(failed.contains("git fetch"), "{failed}");
    fleet.main_mut().config_mut().build.transports.retain(|transport| transport != "http");
    fleet.main_mut().restart().await;
    let forbidden = format!("{:?}", fleet.main().ask_deploy("production").await);
    assert!(forbidden.contains("http"), "{forbidden}");

    let main = fleet.main();
    let key: String = holder.key.lines().nth(1).unwrap().to_owned();
    let ca = fs::read_to_string(main.config().data_dir.join("ca/ca.key")).unwrap();
    let ca = ca.lines().nth(1).unwrap();
    let errors = format!("{failed}{forbidden}{again:?}{for_another:?}");
    let (told, logged) = (told(main).await, logs.text());
    assert!(logged.contains("token-created") && logged.len() > 10_000, "the logs are heard");
    for (what, secret) in [
        ("password", PASSWORD),
        ("used token", &used),
        ("waiting token", &waiting),
        ("key", &key),
        ("CA key", ca),
    ] {
        assert!(!errors.contains(secret), "{what} in an error: {errors}");
        assert!(!told.contains(secret), "{what} in an answer");
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what} in a log");
        let files = files_with(&main.config().data_dir, secret);
        let own = |file: &String| match what {
            "CA key" => file.ends_with("ca/ca.key"),
            // The build user's copy, which only it may read.
            "password" => file.ends_with("build/credentials"),
            _ => false,
        };
        assert!(files.iter().all(own), "{what} in {files:?}");
        assert_eq!(files_with(fleet.node("c1").dir(), secret), Vec::<String>::new(), "{what} on a compiler");
    }
    fleet.main_mut().stop().await;
    fleet.node("c1").stop().await;
}

#[test]
fn t18_a_configuration_shown_for_people_to_read_has_no_password() {
    let build = bunraku_builder::BuildConfig {
        remote: format!("https://deploy:{PASSWORD}@git.test/control.git"),
        ..Default::default()
    };
    assert!(!format!("{build:?}").contains(PASSWORD), "{build:?}");
    assert!(format!("{build:?}").contains("git.test/control.git"), "{build:?}");
}
