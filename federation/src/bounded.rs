//! A list from outside that is refused as soon as it is too long: before, not
//! after, memory is taken for the rest of it.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// At most `MAX` elements; `null` is an empty list.
#[derive(Debug)]
pub struct BoundedList<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for BoundedList<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if list.len() >= MAX {
                        return Err(A::Error::invalid_length(list.len() + 1, &self));
                    }
                    list.push(element);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(List::<T, MAX>(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_where_they_must() {
        let parse = |text| serde_json::from_str::<BoundedList<u8, 2>>(text).map(|list| list.0);
        assert_eq!(parse("[1,2]").expect("short enough"), [1, 2]);
        assert_eq!(parse("null").expect("nothing"), [0; 0]);
        assert!(parse("[1,2,3]").expect_err("too long").is_data());
        assert!(parse("{}").is_err());
    }
}
