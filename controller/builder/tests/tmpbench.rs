use bunraku_builder::*;
#[test]
fn bench() {
    let d = tempfile::tempdir().unwrap();
    let t = d.path().join("t");
    for m in 0..41 { for k in 0..37 { let dir = t.join(format!("modules/m{m}/d{k}")); std::fs::create_dir_all(&dir).unwrap();
        for f in 0..20 { std::fs::write(dir.join(format!("f{f}")), vec![(m*k+f) as u8; 1380 + f*10 + m*1000/41]).unwrap(); } } }
    let store = ObjectStore::open(&d.path().join("o")).unwrap();
    let ex = Exclude::parse(&["*.swp".into(), "modules/*/spec/fixtures".into()]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    for i in 0..5 { let s = std::time::Instant::now(); let (r,_) = take(&t, &d.path().join("c"), &ex, &store, &Default::default()).unwrap();
      println!("{i}: {:?} files {} opened {}", s.elapsed(), r.files, r.opened); 
      if i == 3 { store.sweep(&[r.digest]).unwrap(); std::fs::write(t.join("x"), "1").unwrap(); } }
    let s = std::time::Instant::now(); println!("{:?} {:?}", store.sweep(&[]).unwrap(), s.elapsed());
}
