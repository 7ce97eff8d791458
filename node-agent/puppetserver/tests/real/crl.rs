//! CRLs of the instance's own CA, made by OpenSSL beside Puppet's CA, so that only the keeper brings them to the server.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bunraku_common::{Fence, Generation, Term};
use bunraku_crl::{Keeper, Offer, Place};
use bunraku_puppetserver::{Account, NotRefused, PuppetServer, Settings};

use crate::instance::{Instance, run};

const LIMIT: Duration = Duration::from_secs(60);
/// Long enough for one question, so that what is seen at the moment is told.
const ONCE: Duration = Duration::from_secs(3);

const SIGNER: &str = "
cd \"$1\"
printf 'authorityKeyIdentifier=keyid:always\\nextendedKeyUsage=clientAuth\\n' > canary.ext
openssl req -new -newkey rsa:2048 -nodes -keyout canary.key -subj /CN=canary -out canary.csr
openssl x509 -req -in canary.csr -CA ../ca/ca_crt.pem -CAkey ../ca/ca_key.pem -set_serial 0x7777 -days 1 \\
  -extfile canary.ext -out canary.pem
printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index\\ncrlnumber=number\\ndefault_md=sha256\\n[e]\\n\
authorityKeyIdentifier=keyid:always\\n' > ca.cnf
echo 'unique_subject = no' > index.attr
crl() {
  echo \"$1\" > number
  openssl ca -gencrl -config ca.cnf -crlexts e -crldays 30 -cert ../ca/ca_crt.pem -keyfile ../ca/ca_key.pem -out own
  awk '/BEGIN/ { block++ } block > 1' ../ca/ca_crl.pem | cat own - > \"$2\"
}
: > index
crl 0100 before.pem
printf 'R\\t350101000000Z\\t260101000000Z\\t7777\\tunknown\\t/CN=canary\\n' > index
crl 0101 after.pem
";

pub(crate) async fn is_loaded_and_proven(instance: &Instance, settings: &Settings, server: &PuppetServer) {
    let signer = instance.path("signer");
    fs::create_dir(&signer).unwrap();
    run(Command::new("sh").args(["-ec", SIGNER, "signer"]).arg(&signer));
    let read = |name: &str| fs::read(signer.join(name)).unwrap();
    let canary = server.canary(&read("canary.pem"), &read("canary.key")).unwrap();
    let mut keeper = Keeper::open(&instance.path("data")).unwrap();
    let (path, ca) = (settings.hostcrl.clone(), settings.localcacert.clone());
    keeper.keep(vec![Place { path, owner: None, group: None, mode: None, ca, reload: None }]);
    let mut install = |name: &str, generation| {
        let fence = Fence { term: Term { number: 1, id: 1 }, generation: Generation(generation) };
        let crls = read(name);
        keeper.install(&Offer { crls: &crls, fence, number_reset: false }, now_ms()).unwrap();
        assert_eq!(keeper.seen().owed, "");
    };
    install("before.pem", 1);
    let error = server.prove_refusal(&canary, ONCE).await.unwrap_err();
    assert!(matches!(error, NotRefused::LetIn { .. }), "{error}");

    let began = Instant::now();
    install("after.pem", 2);
    let placed = began.elapsed();
    server.prove_refusal(&canary, LIMIT).await.unwrap();
    println!("CRL in place after {placed:?}, refused after {:?}", began.elapsed());
    let meta = fs::metadata(&settings.hostcrl).unwrap();
    let puppet = Account::find("puppet").unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (puppet.uid, puppet.gid, 0o644));

    // An empty file refuses everybody, which is no proof; put back, it is one again.
    fs::write(&settings.hostcrl, "").unwrap();
    let began = Instant::now();
    while server.prove_refusal(&canary, ONCE).await.is_ok() {
        assert!(began.elapsed() < LIMIT, "the empty CRL is not loaded");
    }
    let error = server.prove_refusal(&canary, ONCE).await.unwrap_err();
    assert!(matches!(error, NotRefused::Everybody { .. }), "{error}");
    let began = Instant::now();
    keeper.look(now_ms());
    server.prove_refusal(&canary, LIMIT).await.unwrap();
    println!("put back and proven after {:?}", began.elapsed());
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
