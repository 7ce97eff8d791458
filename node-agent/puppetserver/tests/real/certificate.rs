//! A key and a request made here, signed by the instance's own CA (by OpenSSL: Puppet's CA signs no second certificate for
//! a name), in place of the certificate before, and back.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bunraku_certificates::Certificate;
use bunraku_common::{Fence, Generation, NodeName, Term};
use bunraku_host_certificate::{Fallback, Files, Kept, Order, World, alt_names};
use bunraku_puppetserver::{PuppetServer, Settings, server::Status, shown};

use crate::instance::{ADDRESS, Instance, run};

const ALIAS: &str = "puppet.bunraku.test";
const LIMIT: Duration = Duration::from_secs(30);

const SIGN: &str = "
cd \"$1\"
printf 'authorityKeyIdentifier=keyid:always\\nsubjectAltName=DNS:%s,DNS:%s\\n' \"$2\" \"$3\" > host.ext
openssl x509 -req -in host.csr -CA ../ca/ca_crt.pem -CAkey ../ca/ca_key.pem -set_serial 0x4242 -days 30 \\
  -extfile host.ext -out host.pem
";

pub(crate) async fn is_replaced_and_comes_back(
    instance: &mut Instance,
    settings: &Settings,
    server: &PuppetServer,
) {
    let dir = instance.path("signer");
    let mut kept = Kept::open(&instance.path("certificate")).unwrap();
    let fence = Fence { term: Term { number: 1, id: 1 }, generation: Generation(1) };
    let order = Order { fleet: None, fence };
    let certname = NodeName::parse(&settings.certname).unwrap();
    let names = alt_names(&[ALIAS.to_owned()]).unwrap();
    fs::write(dir.join("host.csr"), kept.request(order, &certname, names).unwrap()).unwrap();
    run(Command::new("sh").args(["-ec", SIGN, "signer"]).arg(&dir).args([certname.as_str(), ALIAS]));
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let world = World { ca: &settings.localcacert, crl: &settings.hostcrl, now_s };
    let signed = fs::read(dir.join("host.pem")).unwrap();
    kept.stage(order, &signed, &world).unwrap();
    let new = Certificate::parse(&signed).unwrap().fingerprint().hex();
    let files = Files {
        certificate: settings.hostcert.clone(),
        key: settings.hostprivkey.clone(),
        fallback: Fallback::default(),
    };
    kept.can_place(&new, &files, &world).unwrap();

    let before = served().await;
    kept.place(&new, &files, &world).unwrap();
    assert_eq!(served().await.fingerprint(), before.fingerprint(), "a file alone changes nothing");
    // Puppet's own agent takes the pair, and the server lets it in before it has read its own.
    run(Command::new("puppet").args(["ssl", "verify", "--config"]).arg(instance.path("etc/puppet.conf")));
    assert_eq!(server.status().await, Status::Running);
    let began = Instant::now();
    instance.reload();
    let after = served().await;
    assert_eq!(after.fingerprint().hex(), new);
    assert!(after.alt_names().contains(&ALIAS.parse().unwrap()), "{after:?}");
    println!("serial {} after {:?}, {} before", after.serial(), began.elapsed(), before.serial());
    assert_eq!(server.status().await, Status::Running);
    assert!(server.environments().await.is_ok());

    kept.put_back(&new, &files).unwrap();
    instance.reload();
    assert_eq!(served().await.fingerprint(), before.fingerprint());
    assert_eq!(server.status().await, Status::Running);
}

async fn served() -> Certificate {
    let seen = shown(ADDRESS, None, LIMIT).await.unwrap();
    assert_eq!(seen.broken, None);
    Certificate::from_der(&seen.certificate).unwrap()
}
