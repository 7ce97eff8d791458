//! Puppet's CRLs on a fleet: the file that the CA writes, and what nodes have of it.

use std::{fs, path::PathBuf, time::Duration};

use bunraku_certificates::Crls;
use bunraku_proto::v1;
use time::OffsetDateTime;

use super::{Authority, Fleet, MainServer, Node, until};

impl MainServer {
    pub async fn crl(&self) -> v1::CrlStatusReply {
        self.client().crl_status(v1::CrlStatusRequest {}).await.unwrap().into_inner()
    }

    pub async fn crl_on(&self, node: &str) -> Option<v1::CrlNodeInfo> {
        self.crl().await.nodes.into_iter().find(|info| info.node == node)
    }

    pub async fn until_crl_on(&self, node: &str, state: &str) {
        until(&format!("the CRL on {node} to be {state}"), || async {
            self.crl_on(node).await.is_some_and(|info| info.state == state)
        })
        .await;
    }
}

impl Fleet {
    /// Where the CA writes it.
    pub fn crl_file(&self) -> PathBuf {
        self.main().config().puppet.as_ref().unwrap().crl.clone()
    }

    /// What the CA would write as its CRL of this number.
    pub fn crl(&self, number: u64, revoked: &[u64]) -> String {
        self.authority.crl_of(number, revoked)
    }

    /// The CA revokes these, and writes a CRL of this number, as it does: by a rename.
    pub fn write_crl(&self, number: u64, revoked: &[u64]) {
        self.place_crl(&self.crl(number, revoked));
    }

    /// The same, of a CRL that ends so soon: the CA has stopped making new ones.
    pub fn write_ending_crl(&self, number: u64, revoked: &[u64], ends_in: Duration) {
        self.place_crl(&self.authority.crl_until(number, revoked, OffsetDateTime::now_utc() + ends_in));
    }

    fn place_crl(&self, text: &str) {
        let beside = self.crl_file().with_extension("tmp");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.crl_file()).unwrap();
    }

    /// A CRL of the same number by another CA of the same name.
    pub fn foreign_crl(&self, number: u64) -> String {
        Authority::new().crl_of(number, &[])
    }

    pub async fn until_all_have_crl(&self, number: u64) {
        for node in &self.nodes {
            node.until_crl(number).await;
        }
    }
}

impl Node {
    pub fn crl_file(&self) -> PathBuf {
        self.dir().join("crl.pem")
    }

    /// Number of the CRL that Puppet Server would read now; `None`: it could read none.
    pub fn crl(&self) -> Option<u64> {
        let crls = Crls::parse(&fs::read(self.crl_file()).ok()?).ok()?;
        crls.iter().next()?.number().to_string().parse().ok()
    }

    pub async fn until_crl(&self, number: u64) {
        let what = format!("{} to have CRL {number}", self.name());
        until(&what, || async { self.crl() == Some(number) }).await;
    }

    /// Watches the file, from another thread, for as long as it lives: every CRL that a reader may have met.
    pub fn observe_crl(&self) -> Observed {
        Observed::of(self.crl_file())
    }
}

/// What a reader of a file has met, read again and again without a pause.
#[derive(Debug)]
pub struct Observed {
    ended: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Option<u64>>>,
}

impl Observed {
    fn of(path: PathBuf) -> Self {
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let until = ended.clone();
        let thread = std::thread::spawn(move || {
            let mut met = Vec::new();
            while !until.load(std::sync::atomic::Ordering::Relaxed) {
                let crls = Crls::parse(&fs::read(&path).unwrap_or_default()).ok();
                let number = crls.and_then(|crls| crls.iter().next()?.number().to_string().parse().ok());
                if met.last() != Some(&number) {
                    met.push(number);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            met
        });
        Self { ended, thread }
    }

    /// Numbers, each once for as long as it stood; `None`: nothing that can be read.
    pub fn end(self) -> Vec<Option<u64>> {
        self.ended.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
