//! Puppet's CA as the controller asks it: requests, signatures, revocations, and canaries.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bunraku_certificates::{Crls, SigningRequest};
use bunraku_common::{Chain, NodeName};
use bunraku_puppet_ca::{
    Canaries, Canary, CanaryError, CertificateStatus, PuppetCa, PuppetCaConfig, State, Why,
};
use bunraku_tests::{
    http::Client,
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{self, CA_NAME, Options, PuppetServer, Stack},
    suite::{self, Test},
};
use rcgen::KeyPair;

const TESTS: &[Test<Stack>] = &[
    ("a_name_goes_from_its_request_to_its_end", whole_life),
    ("a_request_is_not_replaced_by_one_with_another_key", other_key),
    ("the_ca_tells_when_its_own_ends", expirations),
    ("how_long_the_ca_takes", measured),
    ("a_canary_s_key_is_given_after_its_revocation_and_opens_nothing", canary),
    ("a_name_that_is_not_allowed_is_told_apart", names_not_allowed),
    ("an_authorization_that_is_not_allowed_is_told_apart", authorization_not_allowed),
    ("a_certificate_without_pp_cli_auth_may_not", without_rights),
    ("a_compiler_has_no_ca", no_ca),
];

const HOUR: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let mut stack = Stack::up(directory, &namespace::cache(), &Options::default(), &progress)?;
        suite::run(&mut stack, TESTS)?;
        progress.timed("everything is stopped", || stack.stop())
    })
}

fn whole_life(stack: &mut Stack) -> Result<()> {
    let (ca, name) = (ca(&stack.main), name("new.stack.test")?);
    let csr = request(&name, &["new.stack.test", "puppet.stack.test"], None)?;
    wait(async {
        ensure!(ca.status(&name).await?.is_none(), "it is known already");
        ca.submit(&name, &csr).await?;
        ca.submit(&name, &csr).await.context("again")?;
        let pending = ca.request(&name).await?.context("there is no request")?;
        let status = known(&ca, &name).await?;
        ensure!(status.state == State::Requested, "after the request: {status:?}");
        ensure!(status.fingerprint == Some(pending.fingerprint()), "another request: {status:?}");
        ensure!(status.alt_names.contains("DNS:puppet.stack.test"), "without names: {status:?}");

        ensure!(ca.allows_subject_alt_names()?, "ca.conf of the stack allows names");
        ca.sign(&name, Some(HOUR)).await?;
        let issued = ca.certificate(&name).await?.context("there is no certificate")?.certificate;
        let status = known(&ca, &name).await?;
        ensure!(status.state == State::Signed, "after the signature: {status:?}");
        ensure!(status.serial.as_deref() == Some(issued.serial()), "{status:?}, {issued:?}");
        ensure!(status.not_after_s == Some(issued.not_after_s()), "{status:?}, {issued:?}");
        // Puppet Server dates back by a day.
        let life = issued.not_after_s() - issued.not_before_s();
        ensure!(life == 25 * 3600, "asked for an hour, it lasts {life} s");
        ensure!(issued.has_key_of(&pending) && issued.is_issued_by(&ca.authorities()?), "{issued:?}");
        ca.submit(&name, &csr).await.context("after the signature")?;
        let again = why_not(ca.sign(&name, None).await)?;
        ensure!(matches!(again, Why::NoRequest { .. }), "signed again: {again}");

        ca.revoke(&name).await?;
        ensure!(crls(stack)?.revokes_certificate(&issued), "the CRL file does not have it");
        ensure!(known(&ca, &name).await?.state == State::Revoked, "it is not revoked");
        let number = crls(stack)?.numbers();
        ca.revoke(&name).await.context("again")?;
        ensure!(crls(stack)?.numbers() == number, "a second revocation wrote the CRL again");
        let refused = why_not(ca.submit(&name, &csr).await)?;
        ensure!(matches!(refused, Why::Revoked { .. }), "handed in after the revocation: {refused}");

        ca.forget(&name).await?;
        ca.forget(&name).await.context("again")?;
        ensure!(ca.status(&name).await?.is_none(), "it is still known");
        ensure!(crls(stack)?.revokes_certificate(&issued), "forgetting took it off the CRL");
        // Puppet Server 8 would find it in its inventory.
        let gone = why_not(ca.revoke(&name).await)?;
        ensure!(matches!(gone, Why::NoCertificate { .. }), "revoked after the end: {gone}");
        Ok(())
    })
}

fn other_key(stack: &mut Stack) -> Result<()> {
    let (ca, name) = (ca(&stack.main), name("twice.stack.test")?);
    wait(async {
        let first = request(&name, &[], None)?;
        ca.submit(&name, &first).await?;
        let pending = why_not(ca.submit(&name, &request(&name, &[], None)?).await)?;
        ensure!(matches!(pending, Why::OtherKey { state: State::Requested, .. }), "{pending}");
        let ours = SigningRequest::parse(first.as_bytes())?;
        let kept = ca.request(&name).await?.context("there is no request")?;
        ensure!(kept.fingerprint() == ours.fingerprint(), "the request was replaced");
        ca.sign(&name, None).await?;
        let signed = why_not(ca.submit(&name, &request(&name, &[], None)?).await)?;
        ensure!(matches!(signed, Why::OtherKey { state: State::Signed, .. }), "{signed}");
        Ok(ca.forget(&name).await?)
    })
}

fn expirations(stack: &mut Stack) -> Result<()> {
    let ca = ca(&stack.main);
    let told = wait(async { ca.expirations().await?.context("7.9.5 knows") })?;
    let crl_ends = told.crls.values().copied().min().flatten();
    ensure!(crl_ends == Some(crls(stack)?.ends_s()), "{told:?}");
    let authority_ends = told.authorities.values().copied().min().flatten();
    ensure!(authority_ends == Some(ca.authorities()?.ends_s()), "{told:?}");
    Ok(())
}

fn measured(stack: &mut Stack) -> Result<()> {
    const ROUNDS: usize = 20;
    let ca = ca(&stack.main);
    let mut took = [(); 6].map(|()| Vec::new());
    wait(async {
        for round in 0..ROUNDS {
            let name = name(&format!("timed{round}.stack.test"))?;
            let csr = request(&name, &[], None)?;
            let start = Instant::now();
            ca.submit(&name, &csr).await?;
            took[0].push(start.elapsed());
            let start = Instant::now();
            ca.status(&name).await?;
            took[1].push(start.elapsed());
            let start = Instant::now();
            ca.sign(&name, Some(HOUR)).await?;
            took[2].push(start.elapsed());
            let start = Instant::now();
            ca.certificate(&name).await?;
            took[3].push(start.elapsed());
            let start = Instant::now();
            ca.revoke(&name).await?;
            took[4].push(start.elapsed());
            let start = Instant::now();
            ca.forget(&name).await?;
            took[5].push(start.elapsed());
        }
        let start = Instant::now();
        let all = ca.statuses(None).await?.len();
        println!("statuses of {all} names: {:.1?}", start.elapsed());
        anyhow::Ok(())
    })?;
    for (what, times) in ["submit", "status", "sign", "certificate", "revoke", "forget"].iter().zip(&mut took)
    {
        times.sort();
        println!("{what}: median {:.1?}, longest {:.1?} of {ROUNDS}", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
    Ok(())
}

fn canary(stack: &mut Stack) -> Result<()> {
    let (ca, dir) = (ca(&stack.main), stack.directory().join("canaries"));
    let canaries = Canaries::open(&dir)?;
    let start = Instant::now();
    let canary @ Canary { issuer, .. } = &wait(async { Ok(canaries.stock(&ca, HOUR).await?) })?;
    println!("a canary was made in {:.1?}", start.elapsed());
    ensure!(canaries.held()? == [canary.clone()], "{canary:?} is not held");
    ensure!(crls(stack)?.numbers().get(issuer).is_some(), "no CRL of the canary's issuer");

    // Only a test may look at the key now: it proves that the canary is one, because it is let in.
    let key = fs::read_to_string(dir.join(canary.name.as_str()).join("key.pem"))?;
    let certificate = fs::read_to_string(dir.join(canary.name.as_str()).join("certificate.pem"))?;
    let client = client(stack, canary, &certificate, &key)?;
    let url = format!("https://{CA_NAME}:8140/puppet-ca/v1/expirations");
    let status = client.get(&url)?.status;
    ensure!(status == 200, "before its revocation the canary got {status}");

    let refused = canaries.keys(*issuer, &canary.serial, &crls(stack)?);
    ensure!(matches!(refused, Err(CanaryError::NotRevoked { .. })), "the key was given away: {refused:?}");
    let start = Instant::now();
    wait(async { Ok(ca.revoke(&canary.name).await?) })?;
    let keys = canaries.keys(*issuer, &canary.serial, &crls(stack)?)?;
    ensure!(keys.key_pem() == key && keys.certificate_pem() == certificate, "other keys");
    wait_for("the main server to refuse the canary", Duration::from_secs(30), || {
        Ok(client.get(&url).is_err().then_some(()))
    })?;
    println!("the main server refused it {:.1?} after its revocation was asked for", start.elapsed());

    wait(async { Ok(canaries.discard(&ca, *issuer, &canary.serial).await?) })?;
    ensure!(canaries.held()?.is_empty() && fs::read_dir(&dir)?.next().is_none(), "something is left");
    let left = wait(async { Ok(canaries.strangers(&ca).await?) })?;
    ensure!(left.is_empty(), "the CA still knows {left:?}");
    Ok(())
}

fn names_not_allowed(stack: &mut Stack) -> Result<()> {
    let ca_conf = stack.main.conf_d().join("ca.conf");
    let allowed = fs::read_to_string(&ca_conf)?;
    fs::write(&ca_conf, allowed.replace("true", "false"))?;
    stack.main.reload(Duration::from_secs(120))?;
    let (ca, name) = (ca(&stack.main), name("aliased.stack.test")?);
    wait(async {
        ensure!(!ca.allows_subject_alt_names()?, "ca.conf was changed");
        ca.submit(&name, &request(&name, &["aliased.stack.test", "puppet.stack.test"], None)?).await?;
        let error = ca.sign(&name, None).await.err().context("it was signed")?;
        println!("{}", Chain(&error));
        ensure!(matches!(error.why(), Why::NotAllowed { .. }) && !error.outcome_is_unknown(), "{error:?}");
        ensure!(Chain(&error).to_string().contains("allow-subject-alt-names: true"), "{}", Chain(&error));
        ensure!(known(&ca, &name).await?.state == State::Requested, "the request is gone");
        ca.forget(&name).await?;
        ca.submit(&name, &request(&name, &["aliased.stack.test"], None)?).await?;
        ca.sign(&name, None).await.context("its own name alone is always allowed")?;
        Ok(ca.forget(&name).await?)
    })?;
    fs::write(&ca_conf, allowed)?;
    stack.main.reload(Duration::from_secs(120))
}

fn authorization_not_allowed(stack: &mut Stack) -> Result<()> {
    let (ca, name) = (ca(&stack.main), name("greedy.stack.test")?);
    wait(async {
        ca.submit(&name, &request(&name, &[], Some("1.3.6.1.4.1.34380.1.3.39"))?).await?;
        let status = known(&ca, &name).await?;
        ensure!(status.authorization_extensions.contains_key("pp_cli_auth"), "{status:?}");
        let error = ca.sign(&name, None).await.err().context("it was signed")?;
        println!("{}", Chain(&error));
        ensure!(matches!(error.why(), Why::NotAllowed { .. }), "{error:?}");
        Ok(ca.forget(&name).await?)
    })
}

fn without_rights(stack: &mut Stack) -> Result<()> {
    let (main, c1) = (stack.main.ca_config(), stack.compilers[0].ca_config());
    let ca = PuppetCa::new(PuppetCaConfig { certificate: c1.certificate, key: c1.key, ..main });
    let refused = wait(async { why_not(ca.status(&name("c1.stack.test")?).await) })?;
    println!("{refused}");
    ensure!(matches!(refused, Why::MayNot { .. }), "{refused}");
    Ok(())
}

fn no_ca(stack: &mut Stack) -> Result<()> {
    let (main, c1) = (stack.main.ca_config(), &stack.compilers[0]);
    let at_c1 =
        PuppetCaConfig { address: format!("{}:8140", c1.address()), name: name(&c1.certname())?, ..main };
    let ca = PuppetCa::new(at_c1);
    wait(async {
        let name = name("c1.stack.test")?;
        for refused in [why_not(ca.certificate(&name).await)?, why_not(ca.status(&name).await)?] {
            println!("{refused}");
            ensure!(matches!(refused, Why::NoCa { .. }), "{refused}");
        }
        Ok(())
    })
}

fn ca(main: &PuppetServer) -> PuppetCa {
    PuppetCa::new(main.ca_config())
}

fn crls(stack: &Stack) -> Result<Crls> {
    Ok(Crls::parse(&fs::read(stack.main.crl_file())?)?)
}

async fn known(ca: &PuppetCa, name: &NodeName) -> Result<CertificateStatus> {
    ca.status(name).await?.with_context(|| format!("the CA does not know {name}"))
}

fn name(text: &str) -> Result<NodeName> {
    Ok(NodeName::parse(text)?)
}

/// A request (PEM) with a key of its own.
fn request(name: &NodeName, alt_names: &[&str], extension: Option<&str>) -> Result<String> {
    stack::request(name, alt_names, extension, &KeyPair::generate()?)
}

/// curl as the holder of a canary's key.
fn client(stack: &Stack, canary: &Canary, certificate: &str, key: &str) -> Result<Client> {
    let ssldir: PathBuf = stack.directory().join("canary-client");
    for (kind, text) in [("certs", certificate), ("private_keys", key)] {
        fs::create_dir_all(ssldir.join(kind))?;
        fs::write(ssldir.join(kind).join(format!("{}.pem", canary.name)), text)?;
    }
    fs::copy(stack.main.ca_config().ca, ssldir.join("certs/ca.pem"))?;
    Ok(Client::from_ssldir(&ssldir, canary.name.as_str()))
}

fn why_not<T>(result: Result<T, bunraku_puppet_ca::CaError>) -> Result<Why> {
    match result {
        Ok(_) => bail!("it was not refused"),
        Err(error) => Ok(error.into_why()),
    }
}

fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
