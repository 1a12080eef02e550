//! Snake and camel case of names that this crate writes or looks for. Keys of free-form maps are data and
//! never pass through here.
#![forbid(unsafe_code)]

/// How the names of a JSON message are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Case {
    /// `message_type`, `var_1d`
    #[default]
    Snake,
    /// `messageType`, `var1d`
    Camel,
}

impl Case {
    /// Both casings.
    pub const ALL: [Self; 2] = [Self::Snake, Self::Camel];

    /// Appends `snake` in this casing.
    pub(crate) fn write(self, snake: &str, out: &mut Vec<u8>) {
        match self {
            Self::Snake => out.extend_from_slice(snake.as_bytes()),
            Self::Camel => out.extend(camel(snake)),
        }
    }

    /// `snake` in this casing.
    pub(crate) fn spell(self, snake: &str) -> String {
        match self {
            Self::Snake => snake.to_owned(),
            Self::Camel => camel(snake).map(char::from).collect(),
        }
    }
}

/// True when `key` is `snake` in either casing.
pub(crate) fn is_spelling_of(key: &str, snake: &str) -> bool {
    key == snake || key.bytes().eq(camel(snake))
}

/// The bytes of an ASCII name in camel case. A digit after an underscore stays: `var_1d` is `var1d`.
fn camel(snake: &str) -> impl Iterator<Item = u8> + '_ {
    let mut raise = false;
    snake.bytes().filter_map(move |byte| {
        if byte == b'_' {
            raise = true;
            return None;
        }
        Some(if std::mem::take(&mut raise) { byte.to_ascii_uppercase() } else { byte })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_in_both_cases() {
        for (snake, camel) in [
            ("symbol", "symbol"),
            ("instrument_id", "instrumentId"),
            ("evaluation_time_ms", "evaluationTimeMs"),
            ("var_1d", "var1d"),
            ("var_5d", "var5d"),
        ] {
            assert_eq!(Case::Camel.spell(snake), camel);
            assert_eq!(Case::Snake.spell(snake), snake);
            assert!(is_spelling_of(snake, snake) && is_spelling_of(camel, snake));
        }
        assert!(!is_spelling_of("instrumentid", "instrument_id"));
        assert!(!is_spelling_of("InstrumentId", "instrument_id"));
    }
}
