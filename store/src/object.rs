//! Reading JSON objects of which some members are known, and all others are kept.
//!
//! `#[serde(flatten)]` would do that, too, but reads every member into a buffer first: several times
//! the cost, for records and operations, of which there are thousands a second.

use std::fmt;

use serde::{Deserializer, de};

/// Tells the known names of an object's members from others.
pub(crate) struct Names(pub(crate) &'static [&'static str]);

/// One name.
pub(crate) enum Name {
    Known(&'static str),
    Other(String),
}

impl<'de> de::DeserializeSeed<'de> for Names {
    type Value = Name;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Name, D::Error> {
        d.deserialize_identifier(self)
    }
}

impl de::Visitor<'_> for Names {
    type Value = Name;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<Name, E> {
        let known = self.0.iter().find(|known| **known == name);
        Ok(known.map_or_else(|| Name::Other(name.to_owned()), |known| Name::Known(known)))
    }
}

/// A member that must be there.
pub(crate) fn required<T, E: de::Error>(name: &'static str, member: Option<T>) -> Result<T, E> {
    member.ok_or_else(|| E::missing_field(name))
}

/// `Deserialize` for a type of known members, each given as `name => variable: type it is read as`, and
/// a map of the others; `build` makes the value of them. A known name that comes twice is an error, of
/// another the last stands.
macro_rules! read_object {
    ($type:ty, $what:literal, { $($name:literal => $var:ident: $read:ty,)* }, $more:ident, $build:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$type, A::Error> {
                        use serde::de::Error;
                        use $crate::object::{Name, Names};
                        $(let mut $var: Option<$read> = None;)*
                        let mut $more = std::collections::BTreeMap::new();
                        while let Some(name) = map.next_key_seed(Names(&[$($name),*]))? {
                            match name {
                                $(Name::Known($name) => {
                                    if $var.replace(map.next_value()?).is_some() {
                                        return Err(A::Error::duplicate_field($name));
                                    }
                                })*
                                Name::Known(other) => {
                                    return Err(A::Error::unknown_field(other, &[$($name),*]));
                                }
                                Name::Other(name) => drop($more.insert(name, map.next_value()?)),
                            }
                        }
                        $build
                    }
                }
                d.deserialize_map(Object)
            }
        }
    };
}
pub(crate) use read_object;
