//! Durations and sizes as people write them: a whole number and a unit.

use std::time::Duration;

/// Units of a duration, in milliseconds, largest first.
const DURATION_UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of a size, in bytes, largest first.
const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Text that is no duration or size, as a phrase that follows the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A number alone.
    #[error(r#"has no unit: write "{number}{large}" or "{number}{small}" (the units are {units})"#)]
    NoUnit {
        /// The number written.
        number: u64,
        /// A unit that may have been meant.
        large: &'static str,
        /// A smaller one.
        small: &'static str,
        /// Every unit there is.
        units: String,
    },
    /// A number and a unit that does not exist.
    #[error("has an unknown unit: the units are {units}")]
    UnknownUnit {
        /// Every unit there is.
        units: String,
    },
    /// A fraction. Whole numbers have one meaning only, and every unit has a smaller one.
    #[error("has a fraction: write a whole number of a smaller unit (the units are {units})")]
    Fraction {
        /// Every unit there is.
        units: String,
    },
    /// Not a number first.
    #[error("is not a whole number and a unit (the units are {units})")]
    Malformed {
        /// Every unit there is.
        units: String,
    },
    /// More than 64 bits of the smallest unit.
    #[error("is too large to count")]
    TooLarge,
}

/// Reads a duration such as `10s` or `500ms`.
///
/// A number without unit, a fraction (`1.5s`), a sum (`1m30s`), a sign and spaces are refused.
///
/// # Errors
///
/// Says what is wrong and names the units.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, DURATION_UNITS, ("s", "ms")).map(Duration::from_millis)
}

/// Reads a size such as `64KiB` or `1MiB`, in bytes.
///
/// A number without unit, a fraction (`1.5MiB`), a decimal unit (`64KB`), a sign and spaces are
/// refused.
///
/// # Errors
///
/// Says what is wrong and names the units.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, SIZE_UNITS, ("KiB", "B"))
}

/// Writes a duration so that [`parse_duration`] reads it again; less than a millisecond is cut off.
#[must_use]
pub fn display_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    display(milliseconds, DURATION_UNITS, "0s")
}

/// Writes a size so that [`parse_size`] reads it again.
#[must_use]
pub fn display_size(bytes: u64) -> String {
    display(bytes, SIZE_UNITS, "0B")
}

type Units = &'static [(&'static str, u64)];

fn parse(text: &str, units: Units, likely: (&'static str, &'static str)) -> Result<u64, UnitError> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if number.is_empty() {
        return Err(UnitError::Malformed { units: names(units) });
    }
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    if unit.is_empty() {
        let (large, small) = likely;
        return Err(UnitError::NoUnit { number, large, small, units: names(units) });
    }
    if unit.starts_with(['.', ',']) {
        return Err(UnitError::Fraction { units: names(units) });
    }
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::UnknownUnit { units: names(units) })?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

/// The largest unit that leaves no remainder.
fn display(amount: u64, units: Units, zero: &str) -> String {
    match units.iter().find(|(_, factor)| amount.is_multiple_of(*factor)) {
        Some((name, factor)) if amount > 0 => format!("{}{name}", amount / factor),
        _ => zero.to_owned(),
    }
}

/// Smallest first, as in "ms, s, m, h".
fn names(units: Units) -> String {
    let names: Vec<_> = units.iter().rev().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn sizes_are_a_whole_number_and_a_binary_unit() {
        assert_eq!(parse_size("100B"), Ok(100));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("2GiB"), Ok(2_147_483_648));
    }

    #[test]
    fn a_bare_number_is_told_its_units() {
        assert_eq!(
            parse_duration("10").unwrap_err().to_string(),
            r#"has no unit: write "10s" or "10ms" (the units are ms, s, m, h)"#
        );
        assert_eq!(
            parse_size("4096").unwrap_err().to_string(),
            r#"has no unit: write "4096KiB" or "4096B" (the units are B, KiB, MiB, GiB)"#
        );
    }

    #[test]
    fn fractions_are_refused_with_a_way_out() {
        for text in ["1.5s", "1,5s", "1."] {
            assert!(matches!(parse_duration(text), Err(UnitError::Fraction { .. })), "{text}");
        }
        assert!(matches!(parse_size("1.5MiB"), Err(UnitError::Fraction { .. })));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["1m30s", "10 s", "10S", "10sec", "5d", "10s ", "10µs"] {
            assert!(matches!(parse_duration(text), Err(UnitError::UnknownUnit { .. })), "{text}");
        }
        for text in ["64KB", "64kib", "64K", "64 KiB", "64kB"] {
            assert!(matches!(parse_size(text), Err(UnitError::UnknownUnit { .. })), "{text}");
        }
        for text in ["", "s", "-5s", "+5s", " 5s", ".5s", "٣s"] {
            assert!(matches!(parse_duration(text), Err(UnitError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_never_wraps() {
        assert_eq!(parse_duration("18446744073709551615ms"), Ok(Duration::from_millis(u64::MAX)));
        for text in ["18446744073709551616ms", "18446744073709551615s", "99999999999999999999999h"] {
            assert_eq!(parse_duration(text), Err(UnitError::TooLarge), "{text}");
        }
        assert_eq!(parse_size("18446744073709551615B"), Ok(u64::MAX));
        for text in ["18446744073709551616B", "17179869184GiB", "18446744073709551616"] {
            assert_eq!(parse_size(text), Err(UnitError::TooLarge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(amount: u64) {
            prop_assert_eq!(parse_size(&display_size(amount)), Ok(amount));
            let duration = Duration::from_millis(amount);
            prop_assert_eq!(parse_duration(&display_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}|[0-9]{1,30}.{0,4}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
