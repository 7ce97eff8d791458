//! Hosts with a Puppet Server as its package leaves it, which are no part of the fleet before `bunraku compiler add`.

use std::{fs, path::PathBuf};

use bunraku_agent::identity::enroll_with_token;
use bunraku_proto::identity::IdentityFiles;
use zeroize::Zeroizing;

use super::{Fleet, Mood, Node, grant, host_in};

const AUTH_CONF: &str = include_str!("../../../node-agent/puppetserver/tests/samples/auth.conf");
const CA_CFG: &str = include_str!("../../../node-agent/puppetserver/tests/samples/ca.cfg");

impl Fleet {
    /// Its node agent has neither an identity nor was it started; what a rollout restarts is a stand-in.
    pub async fn add_bare(&mut self, name: &str) {
        let number = u8::try_from(self.nodes.len() + 11).unwrap();
        let from = host_in(self.main.network(), number);
        let dir = self.dir.path().join(name);
        let node = Node::make(&dir, name, &self.main, &self.authority, from, grant).await;
        fs::create_dir(dir.join("services.d")).unwrap();
        fs::write(node.ca_cfg(), CA_CFG).unwrap();
        fs::write(dir.join("conf.d/auth.conf"), AUTH_CONF).unwrap();
        fs::write(node.puppet_conf(), "[main]\n# as it was installed\n").unwrap();
        node.puppet_server().set_mood(Mood::Down);
        self.nodes.push(node);
    }
}

impl Node {
    pub fn ca_cfg(&self) -> PathBuf {
        self.dir().join("services.d/ca.cfg")
    }

    pub fn puppet_conf(&self) -> PathBuf {
        self.dir().join("etc/puppet.conf")
    }

    /// Does what the printed line does, and starts the agent.
    pub async fn paste(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1];
        assert_eq!((words[0], words[3], words[4]), ("echo", "bunraku-agent", "enroll"), "{line}");
        assert_eq!((after("--name"), after("--token-file")), (self.name(), "-"), "{line}");
        assert!(words.contains(&"--compiler"), "{line}");
        let (config, pin) = (self.config(), after("--pin").parse().unwrap());
        let (token, name) = (Zeroizing::new(words[1].to_owned()), self.name().parse().unwrap());
        let identity = enroll_with_token(&config.controller, pin, &token, &name).await.unwrap();
        fs::create_dir_all(&config.data_dir).unwrap();
        IdentityFiles::new(config.data_dir.join("identity")).save(&identity).unwrap();
        self.start().await.unwrap();
    }
}
