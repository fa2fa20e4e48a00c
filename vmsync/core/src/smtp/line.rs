//! Bytes into command lines. Only CRLF makes a good line; memory is one line.

/// Longest command line with its CRLF: 512 octets and room for parameters (RFC 5321 section 4.5.3.1.4, RFC 1870, RFC 6152).
pub(super) const MAX_LINE: usize = 2048;

/// A line as it came, without its ending.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Ended by CRLF, with no other CR or LF in it.
    Good(Vec<u8>),
    /// Has a CR without LF or an LF without CR. The LF ended it, whichever it was, so that
    /// the client is told at once; what it said is not looked at.
    BareEnding {
        /// Whether "BDAT" stands in it: then octets may follow that are no commands.
        bdat: bool,
    },
    /// Longer than [`MAX_LINE`].
    TooLong {
        /// As above, as far as the line was kept.
        bdat: bool,
    },
}

/// Collects one line at a time.
#[derive(Debug, Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    bare_cr: bool,
    too_long: bool,
}

impl Lines {
    /// Takes bytes from `input` up to the end of a line at most; says how many, and the line if it is whole.
    pub(super) fn take(&mut self, input: &[u8]) -> (usize, Option<Line>) {
        let end = input.iter().position(|&b| b == b'\n');
        let (piece, used) = match end {
            Some(at) => (input.get(..at).unwrap_or_default(), at + 1),
            None => (input, input.len()),
        };
        self.push(piece);
        (used, end.map(|_| self.finish()))
    }

    fn push(&mut self, piece: &[u8]) {
        for &b in piece {
            if self.held.last() == Some(&b'\r') {
                self.bare_cr = true;
            }
            if self.held.len() + 1 < MAX_LINE {
                self.held.push(b);
            } else {
                self.too_long = true;
                // Only whether the last byte is a CR is still of interest.
                if let Some(last) = self.held.last_mut() {
                    *last = b;
                }
            }
        }
    }

    fn finish(&mut self) -> Line {
        let mut held = std::mem::take(&mut self.held);
        let crlf = held.pop() == Some(b'\r');
        let bare = std::mem::take(&mut self.bare_cr) || !crlf;
        let long = std::mem::take(&mut self.too_long);
        let bdat = || held.windows(4).any(|w| w.eq_ignore_ascii_case(b"BDAT"));
        match (bare, long) {
            (true, _) => Line::BareEnding { bdat: bdat() },
            (_, true) => Line::TooLong { bdat: bdat() },
            _ => Line::Good(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], step: usize) -> Vec<Line> {
        let mut l = Lines::default();
        let mut out = vec![];
        for piece in input.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (used, line) = l.take(rest);
                rest = &rest[used..];
                out.extend(line);
            }
        }
        out
    }

    #[test]
    fn only_crlf_makes_a_good_line() {
        for step in [1, 3, 100] {
            assert_eq!(
                lines(b"NOOP\r\n\r\nA\nB\rC\r\nD\r\r\nQUIT\r\n", step),
                vec![
                    Line::Good(b"NOOP".to_vec()),
                    Line::Good(vec![]),
                    Line::BareEnding { bdat: false },
                    Line::BareEnding { bdat: false },
                    Line::BareEnding { bdat: false },
                    Line::Good(b"QUIT".to_vec()),
                ]
            );
        }
    }

    #[test]
    fn a_chunk_that_may_follow_a_bad_line_is_seen() {
        for bad in ["BDAT 5 LAST\n", "x\rbdat 5\r\n", "BDAT 5\r\r\n"] {
            for step in [1, 100] {
                let seen = lines(bad.as_bytes(), step);
                assert_eq!(seen, vec![Line::BareEnding { bdat: true }], "{bad:?}");
            }
        }
        let long = [b"BDAT 5 ", &[b' '; MAX_LINE][..], b"\r\n"].concat();
        assert_eq!(lines(&long, 7), vec![Line::TooLong { bdat: true }]);
    }

    #[test]
    fn the_longest_line_is_2048_octets_with_crlf() {
        let mut longest = vec![b'x'; MAX_LINE - 2];
        longest.extend(b"\r\n");
        assert!(matches!(&lines(&longest, 7)[..], [Line::Good(l)] if l.len() == MAX_LINE - 2));
        longest.insert(0, b'x');
        assert_eq!(lines(&longest, 7), vec![Line::TooLong { bdat: false }]);
    }
}
