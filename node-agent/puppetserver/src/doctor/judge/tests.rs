//! Each test changes one thing on a healthy compiler.

use std::{collections::BTreeMap, path::Path};

use super::{
    certificates::{DAY, WATCHER},
    *,
};
use crate::{
    Places, Settings,
    doctor::{
        facts::{Blocked, EnvironmentFacts, Flush, Live, Revocations, Stands},
        fix::versioned_code,
    },
    server::{LiveEnvironment, Status},
};

const RULE: &str = "authorization: { rules: [{match-request: {path: \"/puppet-admin-api\", type: path}, \
                    allow: \"c1.example\", sort-order: 1, name: own}] }";

/// A compiler with nothing to mend.
pub(in crate::doctor) fn healthy() -> Facts {
    let settings = Settings {
        confdir: "/etc/puppet".into(),
        config: "/etc/puppet/puppet.conf".into(),
        codedir: "/etc/puppet/code".into(),
        environmentpath: "/etc/puppet/code/environments".into(),
        ssldir: "/ssl".into(),
        hostcert: "/ssl/c.pem".into(),
        hostprivkey: "/ssl/k.pem".into(),
        localcacert: "/ssl/ca.pem".into(),
        hostcrl: "/ssl/crl.pem".into(),
        cadir: None,
        certname: "c1.example".into(),
        serverport: 8140,
        user: "puppet".into(),
        group: "puppet".into(),
        versioned_environment_dirs: Some(true),
        static_catalogs: true,
    };
    let live = LiveEnvironment {
        modulepath: vec!["/v/modules".into()],
        manifest: None,
        environment_timeout: "unlimited".into(),
    };
    Facts {
        settings,
        places: Places { conf_d: "/s/conf.d".into(), services_d: "/s/services.d".into() },
        puppet_conf: "[server]\nenvironment_timeout = unlimited\n".into(),
        conf_d: vec![
            file("auth.conf", RULE),
            file("puppetserver.conf", include_str!("../../../tests/samples/puppetserver.conf")),
            file("versioned-code.conf", &versioned_code(Path::new("/b/id"), Path::new("/b/content"))),
            file("webserver.conf", include_str!("../../../tests/samples/webserver.conf")),
        ],
        services: vec![file("ca.cfg", include_str!("../../../tests/samples/ca.cfg"))],
        environments: vec![EnvironmentFacts {
            name: "production".parse().unwrap(),
            path: "/etc/puppet/code/environments/production".into(),
            stands: Stands::Managed,
            conf: None,
            config_version_script: None,
        }],
        others: Vec::new(),
        code_id: "/b/id".into(),
        code_content: "/b/content".into(),
        blocked: Ok(Vec::new()),
        live: Live {
            status: Status::Running,
            flush: Flush::Accepted,
            environments: Some(BTreeMap::from([("production".into(), live)])),
        },
        clock_ahead_ms: Some(-20),
        certificate_left: Ok(1000 * DAY),
        crl: Ok(Revocations { revoked: 3, left: 1000 * DAY.unsigned_abs() }),
    }
}

fn file(name: &str, text: &str) -> ConfigFile {
    ConfigFile { path: Path::new("/s/conf.d").join(name), text: text.into() }
}

/// The one finding that is not well after a change to a healthy compiler.
fn only(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let mut bad: Vec<Finding> =
        check(&facts).into_iter().filter(|finding| finding.severity != Severity::Ok).collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    bad.remove(0)
}

fn replace(facts: &mut Facts, name: &str, text: &str) {
    facts.conf_d.retain(|file| !file.path.ends_with(name));
    facts.conf_d.push(file(name, text));
}

fn environment(facts: &mut Facts) -> &mut EnvironmentFacts {
    &mut facts.environments[0]
}

#[test]
fn a_healthy_compiler_has_nothing_to_mend() {
    let findings = check(&healthy());
    assert!(findings.len() > 10);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.mend.is_empty() && finding.fix.is_none()));
}

#[test]
fn every_finding_names_the_file_and_the_line_to_write() {
    let versioned = only(|facts| facts.settings.versioned_environment_dirs = Some(false));
    assert_eq!(versioned.severity, Severity::Error);
    assert_eq!(
        versioned.mend,
        "/etc/puppet/puppet.conf, section [server], then `systemctl reload puppetserver`:\n\
         versioned_environment_dirs = true"
    );
    assert!(versioned.fix.is_some());
    let crl = only(|facts| replace(facts, "webserver.conf", "webserver: { ssl-cert: /c, ssl-key: /k }"));
    assert!(crl.mend.starts_with("/s/conf.d/webserver.conf, beside ssl-cert, then "), "{crl:?}");
    assert!(crl.mend.ends_with(":\nssl-crl-path: \"/ssl/crl.pem\""), "{crl:?}");
    let several = "webserver: { agents: { ssl-cert: /c }, other: { port: 80 } }";
    assert_eq!(only(|facts| replace(facts, "webserver.conf", several)).check, "ssl-crl-path");
    let watch = only(|facts| facts.services[0].text = facts.services[0].text.replace(WATCHER, ""));
    assert!(
        watch.mend.starts_with("/s/services.d/ca.cfg, as a line of its own, then `systemctl restart")
            && watch.mend.ends_with(&format!(":\n{WATCHER}"))
            && watch.fix.is_none()
    );
}

#[test]
fn the_environment_timeout_is_judged_by_its_value_and_by_what_runs() {
    for (conf, found) in [
        ("", "0: every compile"),
        ("[main]\nenvironment_timeout = 3m", "3m: interpreters"),
        ("[server]\nenvironment_timeout=0\n[main]\nenvironment_timeout=unlimited", "0: every compile"),
    ] {
        let finding = only(|facts| facts.puppet_conf = conf.into());
        assert!(finding.found.starts_with(found), "{conf}: {finding:?}");
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.fix.is_some());
    }
    let live = only(|facts| {
        let environments = facts.live.environments.as_mut().unwrap();
        environments.get_mut("production").unwrap().environment_timeout = "0".into();
    });
    assert!(live.mend.ends_with("\nsystemctl reload puppetserver"), "{live:?}");
    let others = only(|facts| {
        facts.puppet_conf = String::new();
        facts.others = vec!["scratch".into()];
    });
    assert!(others.mend.contains("scratch\n"), "{others:?}");
    assert!(others.mend.ends_with(":\nenvironment_timeout = unlimited"), "{others:?}");
    let own = only(|facts| environment(facts).conf = Some("environment_timeout = 0\n".into()));
    assert_eq!(own.check, "environment-timeout");
}

#[test]
fn the_flush_rule_is_judged_by_the_server_first_and_by_the_file_when_it_is_down() {
    let shipped = include_str!("../../../tests/samples/auth.conf");
    let missing = only(|facts| {
        facts.live.flush = Flush::Forbidden;
        replace(facts, "auth.conf", shipped);
    });
    assert!(missing.fix.is_some() && missing.mend.contains("allow: \"c1.example\""), "{missing:?}");
    let pending = only(|facts| facts.live.flush = Flush::Forbidden);
    assert!(pending.fix.is_none() && pending.mend == "systemctl reload puppetserver", "{pending:?}");
    let down = only(|facts| {
        facts.live.flush = Flush::NotAnswered;
        replace(facts, "auth.conf", shipped);
    });
    assert_eq!((down.check, down.severity), ("flush-rule", Severity::Error));
    let old = only(|facts| {
        facts.live.flush = Flush::Forbidden;
        replace(facts, "auth.conf", shipped);
        facts.conf_d.push(file("old.conf", "puppet-admin: { client-whitelist: [a] }"));
    });
    assert!(old.fix.is_none() && old.found.contains("client-whitelist"), "{old:?}");
    let mut facts = healthy();
    facts.live.flush = Flush::NotAnswered;
    assert!(check(&facts).iter().all(|finding| finding.severity == Severity::Ok), "the file allows it");
}

/// A rollout drained its first compiler, was refused there, and halted.
#[test]
fn a_compiler_that_may_flush_its_cache_and_not_its_pool_is_warned_of() {
    let old = "authorization: { version: 1, rules: [{ match-request: { path: \
               \"/puppet-admin-api/v1/environment-cache\", type: path, method: delete }, allow: \"c1.example\", \
               sort-order: 200, name: \"bunraku environment cache\" }] }";
    let pool = only(|facts| replace(facts, "auth.conf", old));
    assert_eq!((pool.check, pool.severity), ("pool-rule", Severity::Warning));
    assert!(pool.fix.is_some() && pool.mend.contains("jruby-pool"), "{pool:?}");
}

#[test]
fn a_crl_that_refuses_everybody_is_an_error_and_one_near_its_end_a_warning() {
    let broken =
        only(|facts| facts.crl = Err("/ssl/crl.pem: could not read the CRL file: it is empty".into()));
    assert_eq!((broken.check, broken.severity), ("crl", Severity::Error));
    assert!(broken.mend.ends_with("mv /ssl/crl.pem /ssl/crl.pem.bad && puppet agent --test"), "{broken:?}");
    let ends = only(|facts| facts.crl = Ok(Revocations { revoked: 3, left: 29 * DAY.unsigned_abs() }));
    assert_eq!((ends.check, ends.severity), ("crl", Severity::Warning));
    assert!(ends.found.starts_with("ends in 29 days"), "{ends:?}");
}

#[test]
fn versioned_code_is_both_helpers_or_nothing() {
    let none = only(|facts| facts.conf_d.retain(|file| !file.path.ends_with("versioned-code.conf")));
    assert!(none.severity == Severity::Warning && none.fix.is_some(), "{none:?}");
    let (place, paste) = none.mend.split_once(":\n").unwrap();
    assert!(place.starts_with("/s/conf.d/versioned-code.conf, as a new file"), "{none:?}");
    assert_eq!(
        paste,
        versioned_code(Path::new("/b/id"), Path::new("/b/content")).trim(),
        "a block of its own"
    );
    let half = only(|facts| replace(facts, "versioned-code.conf", "versioned-code.code-id-command: /b/id"));
    assert!(half.severity == Severity::Error && half.found.contains("does not start"), "{half:?}");
    let other = only(|facts| {
        replace(
            facts,
            "versioned-code.conf",
            "versioned-code: { code-id-command: /x, code-content-command: /y }",
        );
    });
    assert!(other.fix.is_none() && other.found.contains("/x"), "{other:?}");
    assert!(other.mend.contains("in place of versioned-code, then"), "{other:?}");
    let elsewhere = only(|facts| {
        facts.conf_d.retain(|file| !file.path.ends_with("versioned-code.conf"));
        facts.conf_d.push(file("site.conf", "versioned-code: { code-id-command: /x }"));
    });
    assert!(elsewhere.mend.starts_with("/s/conf.d/site.conf, in place of"), "{elsewhere:?}");
}

#[test]
fn f11_clocks_certificates_and_permissions_have_their_limits() {
    assert_eq!(only(|facts| facts.clock_ahead_ms = Some(-31_000)).severity, Severity::Warning);
    let wrong = only(|facts| facts.clock_ahead_ms = Some(3_600_000));
    assert!(wrong.severity == Severity::Error && wrong.found.starts_with("3600 s ahead of"), "{wrong:?}");
    assert_eq!(only(|facts| facts.certificate_left = Ok(29 * DAY)).severity, Severity::Warning);
    assert_eq!(only(|facts| facts.certificate_left = Ok(-DAY)).found, "expired 1 days ago");
    assert_eq!(only(|facts| facts.certificate_left = Err("no file".into())).severity, Severity::Error);
    let at = |path: &str| Blocked {
        path: path.into(),
        reason: "user puppet cannot pass /v".into(),
        at: Some("/v".into()),
    };
    let blocked = only(|facts| facts.blocked = Ok(vec![at("/v/versions"), at("/v/bin/id")]));
    assert_eq!((blocked.check, blocked.mend.as_str()), ("permissions", "chmod o+x /v"));
}

#[test]
fn other_traps_of_the_configuration_are_found() {
    let strange = only(|facts| replace(facts, "webserver.conf", "webserver {\n include \"tls\"\n}"));
    assert!(strange.found.starts_with("/s/conf.d/webserver.conf line 2: `include`"), "{strange:?}");
    let conf_dir = "jruby-puppet: { server-conf-dir: /other }";
    assert_eq!(only(|facts| replace(facts, "puppetserver.conf", conf_dir)).check, "same-settings");
    let infra = "certificate-authority: { enable-infra-crl: true }";
    assert_eq!(only(|facts| replace(facts, "ca.conf", infra)).check, "infra-crl");
    let mut compiler = healthy();
    replace(&mut compiler, "ca.conf", infra);
    compiler.services[0].text = WATCHER.into();
    assert!(check(&compiler).iter().all(|it| it.severity == Severity::Ok), "it has no CA of its own");
    assert_eq!(only(|facts| environment(facts).stands = Stands::Directory).severity, Severity::Warning);
    assert_eq!(only(|facts| environment(facts).stands = Stands::Other).severity, Severity::Error);
    let relative = only(|facts| {
        environment(facts).stands =
            Stands::RelativeLink { target: "../v/production_1".into(), version: "/v/production_1".into() };
    });
    assert_eq!(relative.severity, Severity::Error);
    assert_eq!(relative.mend, "ln -sfn /v/production_1 /etc/puppet/code/environments/production");
    let git = "config_version = /usr/bin/git --git-dir $environmentpath/$environment/.git rev-parse HEAD";
    assert_eq!(only(|facts| environment(facts).conf = Some(git.into())).check, "config-version");
    let script = only(|facts| {
        environment(facts).conf = Some("config_version = scripts/config_version.sh $environment".into());
        environment(facts).config_version_script = Some("#!/bin/sh\ncd $1 && git rev-parse HEAD\n".into());
    });
    assert_eq!(script.check, "config-version");
    let mut digital = healthy();
    environment(&mut digital).conf = Some("config_version = scripts/digit.sh".into());
    assert!(check(&digital).iter().all(|it| it.severity == Severity::Ok), "`digit` is not git");
}
