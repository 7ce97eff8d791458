use super::*;
use crate::{OrderId, Orders, Outcome, order::Detached, process::waiting_shell};

/// The real `puppet`, with directories of its own.
struct Host {
    dir: tempfile::TempDir,
    puppet: Puppet,
    locks: LockFiles,
}

impl Host {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let settings = [
            ("vardir", path("var")),
            ("rundir", path("run")),
            ("logdir", path("log")),
            ("ssldir", path("ssl")),
        ];
        // Nobody listens there.
        let text = "[main]\nserver = 127.0.0.1\nserverport = 9\ncertname = c1.example\n".to_owned();
        let text = settings.iter().fold(text, |text, (name, value)| text + &format!("{name} = {value}\n"));
        fs::write(path("puppet.conf"), text).unwrap();
        let puppet = Puppet::new("puppet", ["--config".into(), path("puppet.conf").into()]);
        let locks = LockFiles::ask(&puppet).await.unwrap();
        assert!(locks.run.starts_with(dir.path()) && locks.disabled.starts_with(dir.path()), "{locks:?}");
        Self { dir, puppet, locks }
    }

    fn hold(&self) -> Hold<'_> {
        Hold::new(&self.puppet, &self.locks, self.dir.path().join("note.json"))
    }

    fn message(&self) -> Option<String> {
        self.hold().disabled().unwrap()
    }
}

#[tokio::test]
async fn the_real_puppet_is_held_and_given_back_also_by_another_agent() {
    let host = Host::new().await;
    assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
    assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
    assert_eq!(host.message().as_deref(), Some("bunraku: rollout 7"));
    assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
    assert_eq!(host.hold().owner().unwrap().as_deref(), Some("rollout 7"));

    // A run of ours goes on to ask for a catalog, one of somebody else does not.
    let orders = Orders::new(host.dir.path().join("orders"), Box::new(Detached));
    let (ours, other) = (OrderId::parse("ours").unwrap(), OrderId::parse("other").unwrap());
    let command = Run::command(&host.puppet, "", &host.dir.path().join("never"));
    orders.run(&ours, &command).await.unwrap();
    orders.run(&other, &command[..command.len() - 2]).await.unwrap();
    for (id, disabled) in [(ours, false), (other, true)] {
        let ended = orders.wait(&id, std::time::Duration::from_secs(120)).await.unwrap();
        let Outcome::Ended { code, output } = ended else { panic!("{ended:?}") };
        assert_eq!((code, output.contains("administratively disabled")), (1, disabled), "{output}");
    }

    assert_eq!(host.hold().release().await.unwrap(), Released::Enabled);
    assert_eq!((host.message(), host.hold().owner().unwrap()), (None, None));
    assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
}

#[tokio::test]
async fn what_somebody_else_disabled_stays_disabled() {
    let host = Host::new().await;
    host.hold().tell("disable", Some("do not touch")).await.unwrap();
    let held = host.hold().hold("rollout 7").await.unwrap();
    assert_eq!(held, Held::BySomebody { message: "do not touch".into() });
    assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
    assert_eq!(host.message().as_deref(), Some("do not touch"));

    // Ours, then enabled by hand and disabled again for another reason.
    fs::remove_file(&host.locks.disabled).unwrap();
    assert_eq!(host.hold().hold("rollout 8").await.unwrap(), Held::Yes);
    fs::write(&host.locks.disabled, r#"{"disabled_message":"mine now"}"#).unwrap();
    assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
    assert_eq!(host.message().as_deref(), Some("mine now"));
}

#[tokio::test]
async fn a_crash_between_the_note_and_the_disabling_leaves_nothing_disabled() {
    let host = Host::new().await;
    host.hold().write(&Note { message: "bunraku: rollout 7".into() }).unwrap();
    assert_eq!(host.hold().release().await.unwrap(), Released::NotOurs);
    assert_eq!(host.hold().owner().unwrap(), None);
    // And the other way round: the note was lost, Puppet's lock names us.
    fs::create_dir_all(host.locks.disabled.parent().unwrap()).unwrap();
    fs::write(&host.locks.disabled, r#"{"disabled_message":"bunraku: rollout 7"}"#).unwrap();
    assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
    assert_eq!(host.hold().release().await.unwrap(), Released::Enabled);
}

#[tokio::test]
async fn a_run_that_is_going_on_is_waited_for_and_nothing_is_disabled_meanwhile() {
    let host = Host::new().await;
    let mut run = waiting_shell(&["puppet agent: applying configuration"]);
    fs::create_dir_all(host.locks.run.parent().unwrap()).unwrap();
    fs::write(&host.locks.run, run.id().to_string()).unwrap();
    let held = host.hold().hold("rollout 7").await.unwrap();
    assert!(matches!(held, Held::Waiting(seen) if seen.process.pid() == run.id()), "{held:?}");
    assert_eq!(host.message(), None);
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(host.hold().hold("rollout 7").await.unwrap(), Held::Yes);
}
