//! This node as a load balancer: orders about compilers in, what is observed out. What is wanted and how it is done is
//! for `bunraku-balancer`.

mod findings;
pub(crate) mod kept;
mod orders;

pub(crate) use self::{
    findings::examine,
    orders::{Balance, LONGEST_OWNER, no_balancer, status, text},
};
