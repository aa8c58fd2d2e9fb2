//! The simulated world that tries to break Mainstay, and the checkers that judge what its clients saw.

pub mod check;
pub mod history;
