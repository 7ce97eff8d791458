//! One story with Debian's real Puppet Server on a loopback address: the doctor finds what a fresh installation lacks and
//! mends it; then a swap is rehearsed, flushed and proven, static catalogs and types work, a CRL is loaded, and the server's certificate replaced.
//!
//! Needs root and the packages puppetserver, puppet-agent, curl and openssl. Takes 60 s on an idle machine: a start and
//! three reloads of a JVM.

#![expect(clippy::unwrap_used, reason = "a test, which clippy cannot see: it has no test harness")]

#[path = "real/certificate.rs"]
mod certificate;
#[path = "real/crl.rs"]
mod crl;
#[path = "real/instance.rs"]
mod instance;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bunraku_common::{Digest, EnvironmentName};
use bunraku_puppetserver::{
    Account, Places, Puppet, PuppetServer, ServerError, SwapLock,
    access_log::AccessLog,
    code_content::{self, version_dir},
    code_id::{CodeId, PATIENCE, code_id},
    doctor::{self, Finding, Severity, Surroundings},
    server::Status,
    types::GenerateTypes,
};
use instance::{ADDRESS, Instance};

const STORY: &str = "a_fresh_puppet_server_is_mended_by_the_doctor_and_then_swaps_code_provably";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(code) = helper(&args) {
        std::process::exit(code);
    }
    // What cargo passes on to an ordinary test program: a filter, or a question.
    let unwanted = args[1..].iter().any(|arg| !arg.starts_with('-') && !STORY.contains(arg.as_str()));
    if args.iter().any(|arg| arg == "--list") {
        println!("{STORY}: test");
    } else if !unwanted {
        let began = std::time::Instant::now();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(story());
        println!("test {STORY} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
}

/// What `bunraku-agent` does when it is called by one of these names: plain functions, no runtime.
fn helper(args: &[String]) -> Option<i32> {
    let program = Path::new(&args[0]);
    let root = program.parent()?.parent()?;
    let mut out = std::io::stdout();
    let done = match program.file_name()?.to_str()? {
        "bunraku-code-id" => {
            let id = code_id(&root.join("code/environments"), &args[1], &root.join("locks"), PATIENCE);
            writeln!(out, "{}", id.as_ref().unwrap_or(&CodeId::Live)).unwrap();
            id.map(drop).or_else(|error| {
                eprintln!("{error}");
                Ok::<_, code_content::CodeContentError>(())
            })
        }
        "bunraku-code-content" => {
            let (versions, environmentpath) = (root.join("code/versions"), root.join("code/environments"));
            let code = code_content::Code { versions: &versions, environmentpath: &environmentpath };
            code.content(&args[1], &args[2], &args[3], &mut out)
        }
        _ => return None,
    };
    Some(done.map_or_else(
        |error| {
            eprintln!("{}", bunraku_common::Chain(&error));
            1
        },
        |()| 0,
    ))
}

async fn story() {
    let production = EnvironmentName::parse("production").unwrap();
    let mut instance = Instance::install();
    let code = Code::new(&instance);
    let (one, two) = (code.version("one"), code.version("two"));
    instance.start();

    // The doctor finds what a fresh installation lacks.
    let puppet = instance.puppet();
    let findings = findings_of(&instance).await;
    assert_eq!(
        wrong(&findings),
        [
            ("versioned-environment-dirs", Severity::Error),
            ("environment-timeout", Severity::Warning),
            ("flush-rule", Severity::Error),
            ("versioned-code", Severity::Warning),
            ("environment-place", Severity::Warning),
        ],
        "{findings:#?}"
    );
    let settings = puppet.settings().await.unwrap();
    let places = Places::find(settings, Some(&instance.path("conf.d"))).unwrap();
    assert_eq!(places.address().unwrap(), ADDRESS);
    let server = PuppetServer::new(settings, places.address().unwrap());
    assert_eq!(server.status().await, Status::Running);
    let pool = server.pool().await.unwrap();
    assert!(pool.is_idle() && pool.instances > 0, "{pool:?}");
    let refused = server.flush(&production).await.unwrap_err();
    assert!(matches!(refused, ServerError::Forbidden { .. }) && !refused.is_owed(), "{refused}");
    assert!(matches!(server.rehearse(settings).await, Err(ServerError::NotVersioned { .. })));

    // It mends them, and names the reload that is due.
    let fixes: Vec<_> = findings.into_iter().filter_map(|finding| finding.fix).collect();
    let (applied, not_applied) = doctor::apply(&fixes, "20261123T120000").unwrap();
    assert_eq!(not_applied, []);
    assert_eq!(applied.len(), 3, "{applied:#?}");
    assert!(applied.iter().all(|done| done.due.contains("reload")));
    let findings = findings_of(&instance).await;
    let rule = findings.iter().find(|finding| finding.check == "flush-rule").unwrap();
    assert!(rule.found.contains("not in force yet"), "{rule:?}");
    code.point_to(&one);
    instance.reload();
    let findings = findings_of(&instance).await;
    assert_eq!(wrong(&findings), [], "{findings:#?}");

    // A swap has no effect before the flush, and is proven after it.
    let puppet = instance.puppet();
    let settings = puppet.settings().await.unwrap();
    let server = PuppetServer::new(settings, ADDRESS);
    server.rehearse(settings).await.unwrap();
    server.flush(&production).await.unwrap();
    server.prove(&production, &one.path).await.unwrap();
    let mut access = AccessLog::follow(&instance.path("log/puppetserver-access.log")).unwrap();
    instance.expect_catalog("one", CodeId::Version(one.digest));
    let places = Places { conf_d: instance.path("conf.d"), services_d: instance.path("services.d") };
    assert_eq!(places.access_log().unwrap().as_deref(), Some(access.path()));
    // The server writes the line after the answer.
    let until = Instant::now() + Duration::from_secs(10);
    let counts = loop {
        let counts = access.look().unwrap();
        if counts.catalogs > 0 || Instant::now() > until {
            break counts;
        }
        std::thread::yield_now();
    };
    assert!(counts.catalogs == 1 && counts.failed == 0 && counts.catalog_ms > 0, "{counts:?}");
    code.point_to(&two);
    let early = server.prove(&production, &two.path).await.unwrap_err();
    let expected = one.digest.to_string();
    assert!(matches!(&early, ServerError::NotProven { found, .. } if found.contains(&expected)), "{early}");
    instance.expect_text("one");
    let began = std::time::Instant::now();
    server.flush(&production).await.unwrap();
    let flushed = began.elapsed();
    let proof = server.prove(&production, &two.path).await.unwrap();
    println!("flush {flushed:?}, flush and proof {:?}: {:?}", began.elapsed(), proof.paths);
    assert!(proof.paths.contains(&two.path.join("modules")), "{proof:?}");
    instance.expect_catalog("two", CodeId::Version(two.digest));

    // Files of both versions are served by their code ids; an unknown one is refused.
    assert_eq!(instance.static_content(CodeId::Version(one.digest)), (200, "content of one\n".into()));
    assert_eq!(instance.static_content(CodeId::Version(two.digest)), (200, "content of two\n".into()));
    assert_eq!(instance.static_content(CodeId::Version(Digest::of(b"never deployed"))).0, 500);

    // While a commit holds the lock for too long, a catalog names no version, and its files are still served.
    let lock = SwapLock::path(&instance.path("locks"), &production);
    let group = Account::find("puppet").unwrap().gid;
    let held = SwapLock::exclusive(&lock, Some(group), Duration::from_secs(5)).unwrap();
    instance.expect_catalog("two", CodeId::Live);
    assert_eq!(instance.static_content(CodeId::Live), (200, "content of two\n".into()));
    drop(held);
    instance.expect_catalog("two", CodeId::Version(two.digest));

    generates_types(&instance, &puppet, &two).await;
    crl::is_loaded_and_proven(&instance, settings, &server).await;
    certificate::is_replaced_and_comes_back(&mut instance, settings, &server).await;

    // Nobody there: owed, not refused.
    instance.stop();
    assert!(matches!(server.status().await, Status::Down(_)));
    assert!(server.flush(&production).await.unwrap_err().is_owed());
}

async fn findings_of(instance: &Instance) -> Vec<Finding> {
    let about = Surroundings {
        conf_d: Some(&instance.path("conf.d")),
        address: None,
        environments: &[EnvironmentName::parse("production").unwrap()],
        versions: &instance.path("code/versions"),
        locks: &instance.path("locks"),
        code_id: &instance.path("helpers/bunraku-code-id"),
        code_content: &instance.path("helpers/bunraku-code-content"),
        clock_ahead_ms: Some(0),
        now: SystemTime::now(),
    };
    doctor::check(&doctor::gather(&instance.puppet(), &about).await.unwrap())
}

async fn generates_types(instance: &Instance, puppet: &Puppet, version: &Version) {
    let production = EnvironmentName::parse("production").unwrap();
    let account = Account::find("puppet").unwrap();
    let (scratch, home) = (tempfile::tempdir().unwrap(), &version.path);
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let generate = GenerateTypes {
        puppet,
        environment: &production,
        version: home,
        scratch: scratch.path(),
        run_as: Some(&account),
        group: Some(account.gid),
        deadline: Duration::from_secs(120),
    };
    let generated = generate.run().await.unwrap();
    assert_eq!(generated.types, 1, "{}", generated.output);
    let made = fs::read_to_string(version.path.join(".resource_types/thing.pp")).unwrap();
    assert!(made.contains("ResourceType3"), "{made}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left behind");

    fs::write(version.path.join("modules/demo/lib/puppet/type/thing.rb"), "Puppet::Type.nonsense").unwrap();
    let error = generate.run().await.unwrap_err();
    assert!(error.is_content(), "{error}");
    let chain = bunraku_common::Chain(&error).to_string();
    assert!(chain.contains("nonsense"), "{chain}");
    assert_eq!(fs::read_to_string(version.path.join(".resource_types/thing.pp")).unwrap(), made);
    instance.expect_catalog("two", CodeId::Version(version.digest));
}

fn wrong(findings: &[Finding]) -> Vec<(&'static str, Severity)> {
    let bad = findings.iter().filter(|finding| finding.severity != Severity::Ok);
    bad.map(|finding| (finding.check, finding.severity)).collect()
}

struct Version {
    digest: Digest,
    path: PathBuf,
}

/// The code directory, swapped as the agent does it.
struct Code {
    root: PathBuf,
}

impl Code {
    fn new(instance: &Instance) -> Self {
        Self { root: instance.path("code") }
    }

    fn version(&self, text: &str) -> Version {
        let digest = Digest::of(text.as_bytes());
        let path = version_dir(&self.root.join("versions"), &"production".parse().unwrap(), &digest);
        let write = |file: &str, content: String| {
            let file = path.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        };
        write("manifests/site.pp", "include demo\n".into());
        write(
            "modules/demo/manifests/init.pp",
            format!(
                "class demo {{ notify {{ 'this is {text}': }}\n file {{ '/nowhere/hello': source => 'puppet:///modules/demo/hello.txt' }} }}\n"
            ),
        );
        write("modules/demo/files/hello.txt", format!("content of {text}\n"));
        write(
            "modules/demo/lib/puppet/type/thing.rb",
            "Puppet::Type.newtype(:thing) do\n  newparam(:name, namevar: true)\nend\n".into(),
        );
        Version { digest, path }
    }

    fn point_to(&self, version: &Version) {
        let (link, new) = (self.root.join("environments/production"), self.root.join("environments/.new"));
        if link.is_dir() && !link.is_symlink() {
            fs::rename(&link, self.root.join("adopted")).unwrap();
        }
        symlink(&version.path, &new).unwrap();
        fs::rename(new, link).unwrap();
    }
}
