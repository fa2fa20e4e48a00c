//! Mails that come in chunks (BDAT, RFC 3030 section 2).
//!
//! A chunk's octets are counted, never looked at. Where a BDAT is refused (out of order, no recipient,
//! too large, no memory), its octets are skipped first and the answer comes after them, so that client and
//! server stay in step whatever was pipelined. After the refusal of a chunk that isn't the last, further
//! chunks of that mail are skipped and refused until RSET, EHLO or the last one.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use vmsync_config::words::Now;

use super::{Session, State, commands};
use crate::smtp::{data::Fault, event::SmtpEvent, reply::Refusal};

/// A BDAT of at least so many octets is no idle command.
const SUBSTANTIAL: u64 = 4096;

/// The BDAT whose octets are awaited.
#[derive(Debug)]
pub(super) struct Chunk {
    left: u64,
    last: bool,
}

impl Chunk {
    pub(super) fn octets(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }
}

/// What came of one mail by BDAT.
#[derive(Debug)]
pub(super) struct Chunks {
    body: BytesMut,
    /// Octets of all its chunks, with the one under way.
    announced: u64,
    /// Why nothing of it is kept any more: the answer to the chunk under way or, that given, to the next.
    refusal: Option<Refusal>,
    /// End of the wait for the whole mail.
    ends: Duration,
}

impl Chunks {
    pub(super) fn keeping(&self) -> bool {
        self.refusal.is_none()
    }

    pub(super) fn announced(&self) -> usize {
        usize::try_from(self.announced).unwrap_or(usize::MAX)
    }

    pub(super) fn ends(&self) -> Duration {
        self.ends
    }
}

impl Session {
    /// `BDAT size [LAST]`.
    pub(super) fn bdat(&mut self, now: Now, size: u64, last: bool) {
        let ends = now.mono.saturating_add(self.policy.times.data);
        let refusal = self.not_ready_for_data();
        let chunks = self.chunks.get_or_insert_with(|| Chunks {
            body: BytesMut::new(),
            announced: 0,
            refusal,
            ends,
        });
        chunks.announced = chunks.announced.saturating_add(size);
        self.step_ends = chunks.ends;
        let (announced, keeping) = (chunks.announced, chunks.keeping());
        if keeping && announced > self.policy.message_bytes {
            let refusal = self.fault(Fault::Oversize);
            self.fail_chunks(refusal);
        } else if keeping && size >= SUBSTANTIAL {
            self.commands = self.commands.saturating_sub(1);
        }
        // As after DATA: who is far beyond the limit isn't waited for.
        if announced > self.policy.flood() {
            let text = format!("larger than {} bytes, closing", self.policy.message_bytes);
            return self.close_with(552, "5.3.4", &text);
        }
        self.state = State::Chunk(Chunk { left: size, last });
        if size == 0 {
            self.end_of_chunk(now);
        }
    }

    fn not_ready_for_data(&self) -> Option<Refusal> {
        if self.from.is_none() {
            Some(commands::first("MAIL"))
        } else if self.recipients.is_empty() {
            Some(commands::no_recipients())
        } else {
            None
        }
    }

    /// Takes the chunk under way, if it is there whole, or skips what there is of it. False = more is awaited.
    pub(super) fn take_chunk(&mut self, now: Now, input: &mut BytesMut) -> bool {
        let State::Chunk(chunk) = &mut self.state else {
            return false;
        };
        let octets = chunk.octets();
        match self.chunks.as_mut().filter(|c| c.keeping()) {
            Some(_) if input.len() < octets => return false,
            Some(chunks) => {
                chunks.body.unsplit(input.split_to(octets));
                chunk.left = 0;
            }
            None => {
                let skipped = octets.min(input.len());
                input.advance(skipped);
                chunk.left = chunk.left.saturating_sub(skipped as u64);
            }
        }
        if chunk.left == 0 {
            self.end_of_chunk(now);
        }
        true
    }

    fn end_of_chunk(&mut self, now: Now) {
        let State::Chunk(chunk) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        let Some(mut chunks) = self.chunks.take() else {
            return;
        };
        match chunks.refusal.take() {
            None if chunk.last => return self.deliver(chunks.body.freeze()),
            None => {
                let text = format!("{} octets received", chunks.body.len());
                self.chunks = Some(chunks);
                self.ok("2.0.0", &text);
            }
            Some(refusal) => {
                if chunk.last {
                    self.reset();
                } else if self.from.is_some() {
                    let text = "an earlier chunk of this mail was refused; send RSET";
                    chunks.refusal = Some(Refusal::new(503, "5.5.1", text));
                    self.chunks = Some(chunks);
                }
                self.refuse(&refusal);
            }
        }
        if matches!(self.state, State::Command) {
            if self.commands > self.policy.commands {
                return self.give_up();
            }
            self.next_command(now);
        }
    }

    /// Lets go of the mail; `refusal` is the answer once the chunk under way has been skipped.
    pub(super) fn fail_chunks(&mut self, refusal: Refusal) {
        if let Some(chunks) = &mut self.chunks {
            chunks.body = BytesMut::new();
            chunks.refusal = Some(refusal);
        }
    }

    /// Whether chunks are being kept.
    pub(super) fn keeping(&self) -> bool {
        self.chunks.as_ref().is_some_and(Chunks::keeping)
    }

    /// Where the next command begins can't be known any more.
    pub(super) fn broken_chunk(&mut self) {
        let peer = self.peer;
        self.event(SmtpEvent::BrokenChunk { peer });
        let text = "expected BDAT size [LAST]; what follows can't be told from commands, closing";
        self.close_with(501, "5.5.4", text);
    }
}
