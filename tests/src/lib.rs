//! What the tests of the pair share: fixtures, real processes, the pair in virtual time.

pub mod mailhog;
pub mod model;
pub mod pair;
pub mod sim;
pub mod swaks;
