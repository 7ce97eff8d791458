//! Compilers' Puppet certificates on the controller: Puppet's CA is asked to sign what an operator declared and nothing
//! else, and every certificate that matters is listed.

mod ca;
mod list;
mod sign;

pub(crate) use self::{
    ca::{MainCa, MainCaError},
    list::{of_the_controller, trouble},
    sign::{SignError, Signed, may_be_signed, sign, wanted},
};
