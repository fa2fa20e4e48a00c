//! The mail after DATA: finds its end, takes stuffed dots out, holds at most the size limit.
//!
//! Only CRLF.CRLF ends it (RFC 5321 section 4.1.1.4), where the CRLF of the DATA line itself
//! counts as the first. A mail with a fault is read to its end too, but no longer kept: the
//! client would take a reply in the middle for the reply to something else.

/// Longest text line with its CRLF, before dots are unstuffed (RFC 5321 section 4.5.3.1.6).
pub(super) const MAX_TEXT_LINE: usize = 1000;

/// What is wrong with a mail as a stream of bytes; the first fault found stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A CR without LF or an LF without CR.
    BareEnding,
    /// A line of more than [`MAX_TEXT_LINE`] octets.
    LongLine,
    /// A NUL (RFC 6152 section 3, RFC 5322 section 4).
    Nul,
    /// More bytes than the size limit.
    Oversize,
    /// Nothing wrong with it, but there is no memory for it now.
    NoRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    Dot,
    DotCr,
    Inside,
    Cr,
}

/// One mail being received.
#[derive(Debug)]
pub(super) struct Data {
    at: At,
    body: Vec<u8>,
    fault: Option<Fault>,
    line: usize,
    taken: u64,
    limit: usize,
}

impl Data {
    /// For a mail of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            at: At::LineStart,
            body: Vec::new(),
            fault: None,
            line: 0,
            taken: 0,
            limit,
        }
    }

    /// Takes bytes up to the end of the mail at most; says how many, and whether the end was among them.
    pub(super) fn take(&mut self, input: &[u8]) -> (usize, bool) {
        let mut used = 0;
        while let Some(&b) = input.get(used) {
            if self.at == At::Inside {
                let rest = input.get(used..).unwrap_or_default();
                let run = rest
                    .iter()
                    .position(|&b| matches!(b, b'\r' | b'\n' | 0))
                    .unwrap_or(rest.len());
                if run > 0 {
                    self.keep(rest.get(..run).unwrap_or_default());
                    used += run;
                    continue;
                }
            }
            used += 1;
            if self.step(b) {
                self.count(used);
                return (used, true);
            }
        }
        self.count(used);
        (used, false)
    }

    /// One byte; true when it ends the mail.
    fn step(&mut self, b: u8) -> bool {
        self.at = match (self.at, b) {
            (At::LineStart, b'.') => {
                self.line = 1;
                At::Dot
            }
            (At::Dot, b'\r') => At::DotCr,
            (At::DotCr, b'\n') => return true,
            (At::Cr, b'\n') => {
                self.keep(b"\r\n");
                self.line = 0;
                At::LineStart
            }
            (At::Cr | At::DotCr, b) => {
                self.fail(Fault::BareEnding);
                match b {
                    b'\r' => At::Cr,
                    _ => At::Inside,
                }
            }
            (_, b'\r') => At::Cr,
            (_, b'\n') => {
                self.fail(Fault::BareEnding);
                At::Inside
            }
            (_, b) => {
                if b == 0 {
                    self.fail(Fault::Nul);
                }
                self.keep(&[b]);
                At::Inside
            }
        };
        false
    }

    fn keep(&mut self, bytes: &[u8]) {
        // Text must leave room for its CRLF; the CRLF itself always fits then.
        let text = bytes != b"\r\n";
        let line_room = if text {
            (MAX_TEXT_LINE - 2).saturating_sub(self.line)
        } else {
            bytes.len()
        };
        let size_room = self.limit.saturating_sub(self.body.len());
        self.line = self.line.saturating_add(bytes.len());
        if bytes.len() <= line_room.min(size_room) {
            if self.fault.is_none() {
                self.body.extend_from_slice(bytes);
            }
        } else if line_room <= size_room {
            // Whichever byte came first decides, so that the pieces it came in don't.
            self.fail(Fault::LongLine);
        } else {
            self.fail(Fault::Oversize);
        }
    }

    /// Notes a fault and lets go of what was held.
    pub(super) fn fail(&mut self, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.body = Vec::new();
        }
    }

    fn count(&mut self, used: usize) {
        self.taken = self.taken.saturating_add(used as u64);
    }

    /// Bytes held in memory.
    pub(super) fn held(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing is kept any more.
    pub(super) fn failed(&self) -> bool {
        self.fault.is_some()
    }

    /// More was sent than a client that is merely too big for us would: twice the limit.
    pub(super) fn flooding(&self) -> bool {
        self.taken > (self.limit as u64).saturating_mul(2).saturating_add(65_536)
    }

    /// The mail, or what was wrong with it.
    pub(super) fn finish(self) -> Result<Vec<u8>, Fault> {
        match self.fault {
            None => Ok(self.body),
            Some(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &[u8], step: usize) -> (Option<usize>, Result<Vec<u8>, Fault>) {
        let mut data = Data::new(5000);
        let mut total = 0;
        for piece in input.chunks(step) {
            let (used, end) = data.take(piece);
            total += used;
            if end {
                return (Some(total), data.finish());
            }
        }
        (None, data.finish())
    }

    #[test]
    fn dots_are_unstuffed_and_only_a_lone_one_ends() {
        let mail = b"..a\r\n...\r\nb.\r\n..\r\n.c\r\n.\r\nQUIT\r\n";
        for step in 1..mail.len() {
            let (end, body) = run(mail, step);
            assert_eq!(end, Some(mail.len() - 6));
            assert_eq!(body.unwrap(), b".a\r\n..\r\nb.\r\n.\r\nc\r\n");
        }
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_mail() {
        for smuggled in [
            &b"x\n.\r\n"[..],
            b"x\n.\n",
            b"x\r.\r",
            b"x\r.\r\n",
            b"x\r\n.\n",
            b"x\r\n.\r",
            b"x\r\n.\rx",
            b"x\r\n\0.\r\n",
            b".\n",
            b".\r",
        ] {
            for step in [1, 2, 100] {
                assert_eq!(run(smuggled, step).0, None, "{smuggled:?}");
            }
        }
        assert_eq!(run(b".\r\n", 1), (Some(3), Ok(vec![])));
        assert_eq!(run(b"x\r\r\n.\r\n", 1), (Some(7), Err(Fault::BareEnding)));
    }

    #[test]
    fn a_line_of_1000_octets_with_crlf_is_the_longest() {
        let mut mail = vec![b'x'; 998];
        mail.extend(b"\r\n.\r\n");
        assert!(run(&mail, 10).1.is_ok());
        mail.insert(0, b'x');
        assert_eq!(run(&mail, 10).1, Err(Fault::LongLine));
        assert_eq!(run(&mail, 2000).1, Err(Fault::LongLine));
    }

    #[test]
    fn the_size_limit_counts_what_is_kept() {
        let line = [&[b'y'; 98][..], b"\r\n"].concat();
        let full = line.repeat(50);
        assert_eq!(run(&[&full[..], b".\r\n"].concat(), 33).1, Ok(full.clone()));
        let over = [&full[..], b"z\r\n.\r\n"].concat();
        assert_eq!(run(&over, 33).1, Err(Fault::Oversize));
    }
}
