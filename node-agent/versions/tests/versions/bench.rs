//! The numbers that the design rests on; run by hand, in release:
//! `cargo test --release -p bunraku-versions --test versions -- --ignored --nocapture bench`.

use std::time::{Duration, Instant};

use bunraku_versions::testing::{Files, Source};

use crate::fixture::{GO, Node, production};

fn large() -> Files {
    (0..30_000_u32)
        .map(|n| {
            let path = format!("modules/m{:02}/d{:02}/e{:02}/f{n}", n % 40, n / 40 % 15, n / 600 % 10);
            (path, format!("{n} {}", "x".repeat(1000)).as_str().into())
        })
        .collect()
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let done = work();
    println!("{what}: {:?}", begin.elapsed());
    (done, begin.elapsed())
}

#[test]
#[ignore = "measures: takes a minute and wants a quiet machine"]
fn bench_one_file_in_an_environment_of_30_000() {
    let node = Node::new();
    let mut files = large();
    let first = node.shelf.put(&files);
    timed("cold stage", || node.stage(&first).unwrap());
    timed("first swap", || node.versions.swap(&production(), &first, false, 0).unwrap());
    timed("spare, linked", || node.prepare_spare());
    let mut before = first;
    for n in 0..5 {
        files.insert("modules/m07/d07/e03/f7".into(), format!("changed {n}").as_str().into());
        let want = node.shelf.put(&files);
        let mut source = Source::new(&node.shelf);
        let (staged, took) = timed("stage of one file, from the spare", || {
            node.versions.stage(&production(), &want, &mut source, &GO).unwrap()
        });
        assert!(staged.from_spare);
        assert!(took < Duration::from_millis(100), "{took:?}");
        timed("swap", || node.versions.swap(&production(), &want, false, 0).unwrap());
        timed("spare, recycled", || node.versions.prepare_spare(&production(), Some(&before), &GO).unwrap());
        before = want;
    }
    files.insert("modules/m07/d07/e03/f7".into(), "without a spare".into());
    let want = node.shelf.put(&files);
    std::fs::remove_dir_all(node.root().join("spare/production")).unwrap();
    timed("stage of one file, linked", || node.stage(&want).unwrap());
}
