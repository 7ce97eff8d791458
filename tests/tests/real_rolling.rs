//! Rolling restarts and reloads of real Puppet Servers behind a real HAProxy, under load: no request may fail, and the
//! compilers in service never fall below the floor. The first test is the control: the same load, without a drain, fails.

#[path = "real_rolling/certified.rs"]
mod certified;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::Bunraku,
    load::{Counted, allow_slow_catalogs, under_load},
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{self, Options, PuppetServer, Setup, Stack},
    suite::{self, Test},
};

const STARTS_WITHIN: Duration = Duration::from_secs(240);
/// So many that one is under way on every compiler whenever its turn comes.
const SLOW: usize = 4;
const TESTS: &[Test<Site>] = &[
    ("a_compiler_that_stops_without_a_drain_fails_requests_under_this_load", stopped_without_a_drain),
    ("i3_a_rolling_restart_under_load_fails_no_request_and_keeps_the_floor", restarted),
    ("i3_a_rolling_reload_under_load_fails_no_request_and_keeps_the_floor", reloaded),
    ("a_test_catalog_needs_a_rule_and_is_refused_before_the_drain_without_it", tested),
    ("a_certificate_that_the_ca_would_not_sign_is_refused_before_anything_is_tried", certified::not_allowed),
    ("i3_a_compiler_gets_a_certificate_with_other_names_under_load_and_shows_it", certified::requested),
    ("a_renewal_asks_for_the_same_names_and_revokes_nothing", certified::renewed),
    ("ruby_that_a_deploy_leaves_stale_is_told_of_and_gone_after_the_rollout_that_starts_by_itself", renewed),
];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    progress: Progress,
}

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, interpreters: 3, ..Options::default() };
        let stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        allow_slow_catalogs(&stack, "production")?;
        stack.place_by_hand("production")?;
        // An interpreter that was being made meanwhile may have loaded what was there before.
        stack.compilers.iter().try_for_each(PuppetServer::flush)?;
        let bunraku = Bunraku::install(&stack, "r10k")?;
        let mut site = Site { stack, bunraku, progress };
        suite::run(&mut site, TESTS)?;
        site.bunraku.stop()?;
        site.stack.stop()
    })
}

fn stopped_without_a_drain(site: &mut Site) -> Result<()> {
    // Not through the stack, which the load borrows.
    let pid = site.stack.compiler("c1")?.service()?.pid().to_string();
    let (counted, ()) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        let stopped = std::process::Command::new("kill").arg(&pid).status()?;
        ensure!(stopped.success(), "could not stop c1");
        wait_for("HAProxy to see that c1 is gone", Duration::from_secs(30), || {
            Ok(site.stack.balancer.server("c1")?.status.starts_with("DOWN").then_some(()))
        })
    })?;
    counted.report("stopped without a drain", &site.progress);
    let c1 = site.stack.compiler("c1")?;
    drop(c1.stop());
    c1.start()?;
    c1.wait_until_ready(STARTS_WITHIN, &Progress::default())?;
    site.stack.balancer.wait_until_all_up(Duration::from_secs(60))?;
    ensure!(!counted.failed.is_empty(), "nobody noticed: the other tests prove nothing");
    Ok(())
}

fn restarted(site: &mut Site) -> Result<()> {
    join(site)?;
    let before = pids(site)?;
    let counted = rolled(site, "restart", "health")?;
    let after = pids(site)?;
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    counted.ensure_nobody_noticed("rolling restart", &site.stack, &site.progress)
}

fn reloaded(site: &mut Site) -> Result<()> {
    join(site)?;
    let before = pids(site)?;
    let counted = rolled(site, "reload", "siblings")?;
    let shown = site.bunraku.tell(&["rollout", "show", "2"])?.out;
    site.progress.say(shown.trim());
    let passed = shown.lines().filter(|line| line.starts_with("verdict on ") && line.contains(": pass: "));
    ensure!(passed.count() == 2, "each was compared with the other under this load: {shown}");
    ensure!(before == pids(site)?, "a reload is no restart");
    counted.ensure_nobody_noticed("rolling reload", &site.stack, &site.progress)
}

/// Of an agent that asks for its own catalogs, too.
fn tested(site: &mut Site) -> Result<()> {
    join(site)?;
    let words = ["rollout", "start", "reload", "--yes", "--bake", "1s", "--nodes", "c1.stack.test"];
    let words = [&words[..], &["--test-catalog", "a1.stack.test"]].concat();
    let refused = site.bunraku.ask(&words)?;
    ensure!(refused.code == 9, "{}{}", refused.out, refused.err);
    ensure!(
        refused.out.contains("allows \"c1.stack.test\" method get on path /puppet/v3/catalog/a1.stack.test"),
        "{}",
        refused.out
    );
    site.bunraku.wait_until_in_service(&["c1.stack.test", "c2.stack.test"])?;
    let id = site.bunraku.json(&["rollout", "list"])?["rollouts"][0]["id"].to_string();
    site.bunraku.tell(&["rollout", "abort", &id])?;

    let c1 = site.stack.compiler("c1")?;
    c1.allow_catalogs_of("a1.stack.test")?;
    site.bunraku.tell(&words[..8])?;
    site.bunraku.tell(&words).map(drop)
}

/// The function itself is loaded anew; of the helper that it loads, the method that the new version lacks stays.
fn renewed(site: &mut Site) -> Result<()> {
    join(site)?;
    let push = |site: &Site, helper: &str| {
        let helper = format!("module PuppetX\n  module Stays\n    {helper}\n  end\nend\n");
        site.stack.repository.add_file("production", "site/stays/lib/puppet_x/stays.rb", helper.as_bytes())
    };
    let function = b"Puppet::Functions.create_function(:'stays::word') do
  dispatch(:word) {}

  def word
    load File.expand_path('../../../../puppet_x/stays.rb', __FILE__)
    PuppetX::Stays.respond_to?(:old) ? 'old' : 'new'
  end
end
";
    let path = "site/stays/lib/puppet/functions/stays/word.rb";
    site.stack.repository.add_file("production", path, function)?;
    let manifest = b"$stays = stays::word()\nnotify { \"stays ${stays}\": }\n";
    site.stack.repository.add_file("production", "manifests/stays.pp", manifest)?;
    push(site, "def self.old; end")?;
    site.bunraku.tell(&["deploy", "production"])?;
    ensure!(stays(site)? == ["old", "old"], "{:?}", stays(site)?);

    push(site, "")?;
    let offered = site.bunraku.tell(&["deploy", "production"])?.out;
    site.progress.say(offered.trim());
    ensure!(offered.contains("hint: bunraku rollout start flush-pool"), "{offered}");
    ensure!(stays(site)? == ["old", "old"], "nothing stays in the interpreters: {:?}", stays(site)?);

    site.bunraku.stop_controller()?;
    site.bunraku.configure_controller("deploy", "stale_ruby", "rollout")?;
    site.bunraku.start_controller()?;
    let newest =
        |site: &Site| Ok::<_, anyhow::Error>(site.bunraku.json(&["rollout", "list"])?["rollouts"][0].clone());
    wait_for("a rollout that starts by itself", Duration::from_secs(60), || {
        Ok((newest(site)?["action"] == "flush-pool").then_some(()))
    })?;
    wait_for("its end", Duration::from_secs(240), || {
        let rollout = newest(site)?;
        ensure!(rollout["phase"] != "paused", "it halted: {rollout:#}");
        Ok((rollout["phase"] == "done").then_some(()))
    })?;
    let shown = newest(site)?["id"].to_string();
    site.progress.say(site.bunraku.tell(&["rollout", "show", &shown])?.out.trim());
    ensure!(stays(site)? == ["new", "new"], "{:?}", stays(site)?);
    site.bunraku.wait_until_in_service(&["c1.stack.test", "c2.stack.test"])
}

/// What a catalog of each compiler says that the function returned.
fn stays(site: &Site) -> Result<Vec<String>> {
    let said = |compiler: &PuppetServer| {
        let catalog = site.stack.catalog(&compiler.certname(), "a1", "production")?;
        let resources = catalog["resources"].as_array().context("a catalog without resources")?;
        let titles = resources.iter().filter_map(|it| it["title"].as_str()?.strip_prefix("stays "));
        Ok(titles.map(str::to_owned).collect::<String>())
    };
    site.stack.compilers.iter().map(said).collect()
}

/// The controller, the agents and the first deploy; once.
fn join(site: &mut Site) -> Result<()> {
    static JOINED: AtomicBool = AtomicBool::new(false);
    if JOINED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    site.bunraku.start_controller()?;
    for compiler in &mut site.stack.compilers {
        site.bunraku.configure_compiler(compiler)?;
        site.bunraku.grant_rollouts(compiler)?;
        site.bunraku.start_agent(compiler.name())?;
    }
    let lb = site.bunraku.join_balancer(&site.stack)?;
    let nodes = site.stack.compilers.iter().map(PuppetServer::certname).chain([lb]);
    site.bunraku.wait_for_nodes(&nodes.collect::<Vec<_>>())?;
    site.bunraku.tell(&["deploy", "production"])?;
    site.bunraku.wait_until_proven("production").map(drop)
}

fn rolled(site: &Site, action: &str, verdict: &str) -> Result<Counted> {
    let (counted, said) = under_load(&site.stack, SLOW, |load| {
        load.wait_until_all_are_busy()?;
        site.bunraku.tell(&["rollout", "start", action, "--yes", "--bake", "2s", "--verdict", verdict])
    })?;
    site.progress.say(said.out.trim());
    Ok(counted)
}

fn pids(site: &Site) -> Result<Vec<u32>> {
    site.stack.compilers.iter().map(PuppetServer::handed_over_pid).collect()
}
