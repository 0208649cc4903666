//! What a device decides where more than one kernel computes the same.

/// Part of every lowering for a GPU ([`super::Arch::Gpu`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {}
