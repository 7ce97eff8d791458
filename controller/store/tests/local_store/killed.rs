//! kill -9 of a process that appends: what it acknowledged is there.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use bunraku_store::{LocalStore, Store};

use super::{append_up_to, new_record, open, verify};

/// Set for the child: the store that it appends to.
const APPEND_TO: &str = "BUNRAKU_STORE_TEST_APPEND_TO";
const KILLS: u64 = 12;

/// Appends for ever, with a checkpoint now and then, and says after each batch up to where it was acknowledged.
fn append_for_ever(dir: &Path) -> ! {
    let (mut store, _) = LocalStore::open(dir).unwrap();
    let mut said = std::io::stdout().lock();
    loop {
        let head = store.head().sequence;
        append_up_to(&mut store, head + 1 + head % 4);
        if head % 7 == 0 {
            store.checkpoint(store.head().sequence.to_string().as_bytes()).unwrap();
        }
        writeln!(said, "acknowledged {}", store.head().sequence).unwrap();
        said.flush().unwrap();
    }
}

#[test]
fn no_acknowledged_record_is_lost_when_the_process_is_killed() {
    if let Some(dir) = env::var_os(APPEND_TO) {
        append_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        acknowledged = append_and_kill(dir.path(), 3 + kill * 5).max(acknowledged);
        let (store, found) = open(dir.path());
        let head = store.head().sequence;
        assert!(head >= acknowledged, "{acknowledged} was acknowledged and {head} is there");
        assert_eq!(found.lost, None);
        let all = store.after(0, usize::MAX).unwrap();
        assert_eq!(all.len() as u64, head);
        for record in &all {
            assert_eq!(record.payload, new_record(record.sequence).payload);
        }
        assert_eq!(store.find("kind/test", usize::MAX).unwrap().len(), all.len(), "the index has caught up");
        assert_eq!(verify(&store).unwrap().records, head);
    }
    assert!(acknowledged > KILLS);
}

/// Answers the last record that a child acknowledged, of those that it said before it was killed.
fn append_and_kill(dir: &Path, batches: u64) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "killed::no_acknowledged_record_is_lost_when_the_process_is_killed", "--nocapture"])
        .env(APPEND_TO, dir.join("store"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let number = |line: String| line.strip_prefix("acknowledged ").and_then(|number| number.parse().ok());
    let mut last = said.by_ref().filter_map(number).nth(usize::try_from(batches).unwrap()).unwrap_or(0);
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said between the count and the kill counts as well.
    last = said.filter_map(number).last().unwrap_or(last);
    last
}
