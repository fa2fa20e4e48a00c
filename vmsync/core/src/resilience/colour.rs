//! Link colours as the reference's network viewer names them (R-AL-2).

use serde::{Deserialize, Serialize};

/// A link to another system, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent facts, each shown as it is"
)]
pub struct Link {
    /// The other side is visible.
    pub up: bool,
    /// This node is its backup (R-TO-6 turned on here).
    pub i_back_it_up: bool,
    /// It is this node's backup.
    pub it_backs_me_up: bool,
    /// This node serves it now.
    pub i_serve_it: bool,
}

/// R-AL-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Down, no resilience configured for it here.
    Red,
    /// Up, no resilience.
    LightGreen,
    /// Up, I am backup for it.
    White,
    /// Down, I am actively backing it up.
    Yellow,
    /// Down, pending: inside the timer, or waiting for a phone.
    Orange,
    /// Up, it backs me up.
    DarkGreen,
}

/// The colour of a link. Where both sides back one another up (dual-active), an up link shows this
/// node's own duty: white.
pub fn colour(link: Link) -> Colour {
    match link {
        Link {
            up: false,
            i_serve_it: true,
            ..
        } => Colour::Yellow,
        Link {
            up: false,
            i_back_it_up: true,
            ..
        } => Colour::Orange,
        Link { up: false, .. } => Colour::Red,
        Link {
            i_back_it_up: true, ..
        } => Colour::White,
        Link {
            it_backs_me_up: true,
            ..
        } => Colour::DarkGreen,
        Link { .. } => Colour::LightGreen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns: up, I back it up, it backs me up, I serve it.
    const TABLE: [(&str, Colour); 11] = [
        ("down .     .    .    ", Colour::Red),
        ("down .     back .    ", Colour::Red),
        ("up   .     .    .    ", Colour::LightGreen),
        ("up   duty  .    .    ", Colour::White),
        ("up   duty  back .    ", Colour::White),
        ("up   duty  .    serve", Colour::White),
        ("down duty  .    serve", Colour::Yellow),
        ("down duty  back serve", Colour::Yellow),
        ("down duty  .    .    ", Colour::Orange),
        ("down duty  back .    ", Colour::Orange),
        ("up   .     back .    ", Colour::DarkGreen),
    ];

    #[test]
    fn every_row_of_r_al_2() {
        for (row, expected) in TABLE {
            let has = |word| row.split_whitespace().any(|w| w == word);
            let link = Link {
                up: has("up"),
                i_back_it_up: has("duty"),
                it_backs_me_up: has("back"),
                i_serve_it: has("serve"),
            };
            assert_eq!(colour(link), expected, "{row}");
        }
    }
}
