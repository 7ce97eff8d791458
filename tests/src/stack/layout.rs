//! Names and addresses of the stack. All of 127.0.0.0/8 can be bound without configuration; the names stand in the
//! private /etc/hosts.

use std::{fmt::Write, net::Ipv4Addr};

use crate::namespace::World;

/// The DNS domain of the stack; `.test` is reserved and resolves nowhere.
pub const DOMAIN: &str = "stack.test";

/// The certname of the main Puppet Server, which has the CA.
pub const CA_NAME: &str = "ca.stack.test";

/// The name that agents call: the balancer's. Every compiler's certificate carries it as an alias.
pub const BALANCER_NAME: &str = "puppet.stack.test";

pub const MAIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

pub const BALANCER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 100);

/// The user that builds environments and owns the git repositories (git refuses those of another user).
pub const BUILD_USER: &str = "bunraku-build";

/// Compilers beyond this number would run into the balancer's address.
const MOST_COMPILERS: u8 = 80;

/// The address of compiler `number`, counted from 1.
pub fn compiler_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 10 + number)
}

/// What the stack needs around it: its names and the build user.
pub fn world(keep: bool) -> World {
    World { hosts: hosts(), user: BUILD_USER, keep }
}

fn hosts() -> String {
    let mut hosts = format!("{MAIN_ADDRESS} {CA_NAME}\n{BALANCER_ADDRESS} {BALANCER_NAME}\n");
    for number in 1..=MOST_COMPILERS {
        writeln!(hosts, "{} c{number}.{DOMAIN}", compiler_address(number))
            .expect("a string takes everything");
    }
    hosts
}
