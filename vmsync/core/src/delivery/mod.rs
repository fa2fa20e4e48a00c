//! Voice messages to users' e-mail addresses: the decisions (R-MB-11).
//!
//! What waits to be mailed follows from what the store holds, and who mails it from who serves; what
//! is decided here is when a mail server is tried, what its answer means for the message, when it is
//! given up (`lane`), from whom the mail is (R-SY-3, `sender`), and what it looks like (`letter`).
//!
//! Each entry of `[[smtp.sender]]` is a [`Lane`] of its own, so that a server that is slow or away
//! holds up no other. What a lane remembers between tries is bounded and may be forgotten: after a
//! restart everything that waits is tried anew.

mod answer;
mod duty;
mod lane;
mod letter;
mod sender;

pub use answer::{Answer, Failure, Stage};
pub use duty::{Duty, HANDOVER, LONGEST_HANDOVER};
pub use lane::{GIVE_UP, Job, Lane, PATIENCE, Trouble, Verdict};
pub use letter::{Attachment, DELIVERED, Letter, write};
pub use sender::sender;
