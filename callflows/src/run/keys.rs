//! What a caller hears and presses: prompts, and the questions of menu, gather and pin.

use std::mem;

use jiff::Timestamp;

use super::{HEARD, PIN_DIGITS, Run, Waiting, Way};
use crate::{
    event::{Action, Item, Question},
    flow::{Act, Menu, NodeId, Patience, Say},
    text::Template,
};

impl Run {
    /// Asks for keys, unless those pressed ahead are the answer already.
    pub(super) fn ask(
        &mut self,
        act: &Act,
        say: &[Say],
        patience: Patience,
        most: usize,
        out: &mut Vec<Action>,
    ) -> Way {
        if !self.keys.is_empty() {
            return self.keyed(act, false, out);
        }
        self.say(say, out);
        gather(patience, most, out)
    }

    /// Looks at the keys pressed so far; `silence`: no more will come.
    pub(super) fn keyed(&mut self, act: &Act, silence: bool, out: &mut Vec<Action>) -> Way {
        match act {
            Act::Menu(menu) => self.menu_keyed(menu, silence, out),
            Act::Gather(g) => match self.take_number(g.min_digits, g.max_digits, silence) {
                Taken::Wait => gather(g.patience, g.max_digits - self.keys.len(), out),
                Taken::Digits(digits) => {
                    self.variables.insert(g.into.clone(), digits);
                    Way::To(g.next)
                }
                Taken::Nothing => self.again(&[], &g.say, g.patience, g.max_digits, g.failed, out),
            },
            Act::Pin(pin) => match self.take_number(1, PIN_DIGITS, silence) {
                Taken::Wait => gather(pin.patience, PIN_DIGITS - self.keys.len(), out),
                Taken::Digits(digits) => super::ask_host(Question::CheckPin(digits), out),
                Taken::Nothing => {
                    self.again(&[], &pin.say, pin.patience, PIN_DIGITS, pin.failed, out)
                }
            },
            _ => Way::To(self.at),
        }
    }

    fn menu_keyed(&mut self, menu: &Menu, silence: bool, out: &mut Vec<Action>) -> Way {
        let found = menu
            .keys
            .iter()
            .find(|(key, _)| self.keys.starts_with(key.as_str()));
        if let Some((key, to)) = found {
            self.keys = self.keys.split_off(key.len());
            return Way::To(*to);
        }
        let begun =
            !self.keys.is_empty() && menu.keys.iter().any(|(key, _)| key.starts_with(&self.keys));
        if begun && !silence {
            return gather(menu.patience, menu.longest() - self.keys.len(), out);
        }
        let (way, say_first): (_, &[Say]) = if self.keys.is_empty() {
            (menu.timeout, &[])
        } else {
            (menu.invalid, &menu.say_invalid)
        };
        self.keys.clear();
        let Some(failed) = way.or(menu.failed) else {
            return Way::Wait(Waiting::Ended);
        };
        if way.is_some() {
            self.say(say_first, out);
            return Way::To(failed);
        }
        self.again(
            say_first,
            &menu.say,
            menu.patience,
            menu.longest(),
            failed,
            out,
        )
    }

    /// Takes a number off the keys: up to `#`, or `most` digits, or what is there at a silence.
    fn take_number(&mut self, least: usize, most: usize, silence: bool) -> Taken {
        let end = self.keys.find('#');
        let length = end.unwrap_or(self.keys.len()).min(most);
        if end.is_none() && length < most && !silence {
            return Taken::Wait;
        }
        let rest = self.keys.split_off(length);
        let digits = mem::replace(
            &mut self.keys,
            rest.strip_prefix('#').map_or(rest.clone(), str::to_owned),
        );
        if digits.len() < least {
            self.keys.clear();
            return Taken::Nothing;
        }
        Taken::Digits(digits)
    }

    /// Asks once more, or goes to `failed` when all tries are used up.
    pub(super) fn again(
        &mut self,
        first: &[Say],
        say: &[Say],
        patience: Patience,
        most: usize,
        failed: NodeId,
        out: &mut Vec<Action>,
    ) -> Way {
        self.keys.clear();
        self.tries += 1;
        self.say(first, out);
        if self.tries >= patience.tries {
            return Way::To(failed);
        }
        self.say(say, out);
        gather(patience, most, out)
    }

    /// Plays, joined with what is played right before.
    pub(super) fn say(&mut self, say: &[Say], out: &mut Vec<Action>) {
        let said = |action: &Action| {
            if let Action::Play { items } = action {
                items.len()
            } else {
                0
            }
        };
        let room = HEARD.saturating_sub(out.iter().map(said).sum());
        let spoken: Vec<Item> = say
            .iter()
            .filter_map(|say| self.item(say))
            .take(room)
            .collect();
        if spoken.is_empty() {
            return;
        }
        self.unheard = true;
        if let Some(Action::Play { items }) = out.last_mut() {
            items.extend(spoken);
        } else {
            out.push(Action::Play { items: spoken });
        }
    }

    /// A time as the caller's clock shows it; what is no time stays as it is.
    fn local(&self, text: String) -> String {
        let time = text
            .parse::<Timestamp>()
            .map(|time| time.to_zoned(self.zone.clone()));
        time.map_or(text, |time| {
            time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        })
    }

    fn item(&self, say: &Say) -> Option<Item> {
        let fill =
            |text: &Template| Some(text.fill(&self.variables)).filter(|text| !text.is_empty());
        Some(match say {
            Say::Prompt(name) => Item::Prompt(name.clone()),
            Say::Text(text) => Item::Text(fill(text)?),
            Say::Number(text) => Item::Number(fill(text)?),
            Say::Digits(text) => Item::Digits(fill(text)?),
            Say::Time(text) => Item::Time(self.local(fill(text)?)),
            Say::Date(text) => Item::Date(self.local(fill(text)?)),
            Say::Greeting(text) => Item::Greeting(fill(text)?),
            Say::Name(text) => Item::Name(fill(text)?),
            Say::Message => Item::Message(self.list.current()?.id.clone()),
        })
    }
}

/// What came off the keys.
enum Taken {
    /// Not enough yet.
    Wait,
    /// A number.
    Digits(String),
    /// Too few digits, or none.
    Nothing,
}

impl Menu {
    pub(super) fn longest(&self) -> usize {
        self.keys
            .iter()
            .map(|(key, _)| key.len())
            .max()
            .unwrap_or(1)
    }
}

fn gather(patience: Patience, max_digits: usize, out: &mut Vec<Action>) -> Way {
    out.push(Action::Gather {
        max_digits,
        timeout_seconds: patience.timeout_seconds,
    });
    Way::Wait(Waiting::Digits)
}
