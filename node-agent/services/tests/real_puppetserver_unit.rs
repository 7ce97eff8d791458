//! Debian's real Puppet Server as the real unit of a real systemd: it is started, reloaded, and killed by a bad
//! configuration, and comes back with the last good one.
//!
//! Needs root and the packages systemd-container, dbus, puppetserver and puppet-agent. It makes a CA of its own in the
//! machine's memory. Three starts of a JVM: two minutes on a loaded machine.

#![expect(clippy::unwrap_used, reason = "a test, which clippy cannot see: it has no test harness")]

#[path = "real/machine.rs"]
mod machine;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use bunraku_common::Chain;
use bunraku_puppetserver::{Puppet, PuppetServer};
use bunraku_services::{
    Acted, Services, UnitName, Verb,
    puppetserver::{ActError, ConfigCheck, GoodCopies, Listening, PuppetserverService, RestartFile},
    service::Grant,
};
use machine::Machine;

const STORY: &str = "real_puppetserver_comes_back_with_its_last_good_configuration";
const DEADLINE: Duration = Duration::from_secs(280);
const CONF_D: &str = "/etc/puppet/puppetserver/conf.d";

/// Less memory and a faster start; see the unit's EnvironmentFile.
const FILES: &[(&str, &str)] = &[
    (
        "etc/default/puppetserver",
        "JAVA_ARGS=\"-Xms384m -Xmx384m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
         -Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger\"\nTK_ARGS=\"\"\n",
    ),
    ("etc/puppet/puppet.conf", "[main]\ncertname = c1.example\nssldir = /var/lib/puppet/ssl\n"),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "inside") {
        return tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(inside());
    }
    let wanted = |arg: &String| arg.starts_with('-') || STORY.contains(arg.as_str());
    if args.iter().any(|arg| arg == "--list") {
        println!("{STORY}: test");
    } else if args.iter().skip(1).all(wanted) {
        let began = Instant::now();
        Machine { units: Vec::new(), files: FILES }.boots(&["inside"]);
        println!("test {STORY} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
}

async fn inside() {
    let services = Services::new(
        [("puppetserver".to_owned(), Grant::Systemd { unit: UnitName::parse("puppetserver").unwrap() })]
            .into(),
    );
    let service = services.granted("puppetserver").unwrap();
    let puppet = Puppet::new("puppet", []);
    let settings = puppet.settings().await.unwrap();
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8140);
    let server = PuppetServer::new(settings, address);
    let conf_d = Path::new(CONF_D);
    let puppetserver = PuppetserverService {
        service,
        server: &server,
        check: ConfigCheck { puppet: &puppet, conf_d, ruby: None },
        copies: GoodCopies::new("/var/lib/good", conf_d, &settings.config),
        restart_file: None,
    };
    let act = async |verb, name| {
        let began = Instant::now();
        let done = puppetserver.act(verb, name, DEADLINE).await;
        println!("{verb}: {:.1} s", began.elapsed().as_secs_f64());
        done
    };

    let done = act(Verb::Start, "turn-0").await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
    assert_eq!(done.no_copies, None);
    let started = service.status().await.unwrap();
    let restart_file = RestartFile::of_process(started.main_pid.unwrap()).unwrap();
    assert_eq!(restart_file, RestartFile::new("/run/puppetserver/restart"));
    assert!(restart_file.is_up() && server.pool().await.unwrap().is_idle());
    assert_eq!(Listening(address).connections().await.unwrap().total(), 0, "our own are gone");

    act(Verb::Reload, "turn-1").await.unwrap();
    assert_eq!(service.acted_since(Verb::Reload, &started.mark).await.unwrap(), Acted::Yes);
    let reloaded = service.status().await.unwrap();
    assert_eq!(reloaded.mark.invocation, started.mark.invocation);

    // Sound to every check that reads it, and no port that a server could listen on.
    let webserver = conf_d.join("webserver.conf");
    let good = fs::read_to_string(&webserver).unwrap();
    fs::write(&webserver, good.replace("8140", "no-port")).unwrap();
    assert_ne!(fs::read_to_string(&webserver).unwrap(), good);
    let error = act(Verb::Reload, "turn-2").await.unwrap_err();
    assert!(matches!(error, ActError::Restored { .. }), "{}", Chain(&error));
    println!("{error}");
    assert_eq!(fs::read_to_string(&webserver).unwrap(), good);
    assert_eq!(service.acted_since(Verb::Restart, &reloaded.mark).await.unwrap(), Acted::Yes);
    service.act(Verb::Stop, DEADLINE).await.unwrap();
}
