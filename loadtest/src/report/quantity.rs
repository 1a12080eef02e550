//! Figures in words: how a time, a count, a rate, a size or a share is written and read.
//!
//! Invariants: a figure is kept in its base unit (nanoseconds, bytes, a share of one) until it is written;
//! what is written has three significant digits and its unit; what is read names its unit, so that no
//! reader has to know the base.
#![forbid(unsafe_code)]

use crate::results::Spread;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Nanoseconds.
    Time,
    /// Things, whole.
    Count,
    /// Things a second.
    Rate,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    ByteRate,
    /// A share of one; of CPU, one is a whole core.
    Share,
    /// A plain number, such as a ratio or a mean.
    Plain,
}

/// A suffix that a value may carry, and what it multiplies by.
type Unit = (&'static str, f64);

const TIME: &[Unit] = &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
const COUNT: &[Unit] = &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];
const RATE: &[Unit] =
    &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("/s", 1.0), ("k/s", 1e3), ("M/s", 1e6), ("G/s", 1e9)];
const KIB: f64 = 1024.0;
const BYTES: &[Unit] = &[
    ("B", 1.0),
    ("KiB", KIB),
    ("MiB", KIB * KIB),
    ("GiB", KIB * KIB * KIB),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
];
const BYTE_RATE: &[Unit] = &[
    ("B/s", 1.0),
    ("KiB/s", KIB),
    ("MiB/s", KIB * KIB),
    ("GiB/s", KIB * KIB * KIB),
    ("kB/s", 1e3),
    ("MB/s", 1e6),
    ("GB/s", 1e9),
];
const SHARE: &[Unit] = &[("%", 0.01)];
const PLAIN: &[Unit] = &[("", 1.0)];

impl Quantity {
    /// The suffixes a value of this kind may be written with.
    pub(super) fn units(self) -> &'static [Unit] {
        match self {
            Self::Time => TIME,
            Self::Count => COUNT,
            Self::Rate => RATE,
            Self::Bytes => BYTES,
            Self::ByteRate => BYTE_RATE,
            Self::Share => SHARE,
            Self::Plain => PLAIN,
        }
    }

    /// The suffixes in words, for messages.
    pub(super) fn units_in_words(self) -> String {
        let names: Vec<&str> =
            self.units().iter().map(|(name, _)| if name.is_empty() { "none" } else { name }).collect();
        names.join(", ")
    }

    /// `value`, which is in the base unit, for a reader.
    pub fn write(self, value: f64) -> String {
        if !value.is_finite() {
            return "unknown".into();
        }
        match self {
            Self::Time => scaled(value, &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")], " ns"),
            Self::Count if value.fract() == 0.0 => grouped(value),
            Self::Count | Self::Plain => digits(value),
            // Up to ten thousand every digit is readable, and is what the user asked for.
            Self::Rate if value < 1e4 => format!("{} /s", digits(value)),
            Self::Rate => scaled(value, &[(1e9, " G/s"), (1e6, " M/s"), (1e3, " k/s")], " /s"),
            Self::Bytes => {
                scaled(value, &[(KIB * KIB * KIB, " GiB"), (KIB * KIB, " MiB"), (KIB, " KiB")], " B")
            }
            Self::ByteRate => scaled(value, &[(1e9, " GB/s"), (1e6, " MB/s"), (1e3, " kB/s")], " B/s"),
            Self::Share => format!("{} %", digits(value * 100.0)),
        }
    }
}

impl Spread {
    /// `median [min max]` for a reader, with the unit once where all three have the same; one value where all
    /// are written alike.
    pub(super) fn write(&self, quantity: Quantity) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|value| quantity.write(value));
        if min == median && max == median {
            return median;
        }
        let split =
            |text: &str| text.split_once(' ').map(|(number, unit)| (number.to_owned(), unit.to_owned()));
        match (split(&median), split(&min), split(&max)) {
            (Some((_, unit)), Some((low, low_unit)), Some((high, high_unit)))
                if unit == low_unit && unit == high_unit =>
            {
                format!("{median} [{low} {high}]")
            }
            _ => format!("{median} [{min} {max}]"),
        }
    }
}

/// In the largest of `steps` that leaves at least one before the point; in `base` when none does.
fn scaled(value: f64, steps: &[(f64, &str)], base: &str) -> String {
    for &(size, suffix) in steps {
        // What would round up to the next step is written in that step: 1 ms, not 1,000 µs.
        if value.abs() >= size * 0.9995 {
            return format!("{}{suffix}", digits(value / size));
        }
    }
    format!("{}{base}", digits(value))
}

/// Three significant digits, more before the point when there are more.
pub(super) fn digits(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 || value == 0.0 {
        return grouped(value.round());
    }
    let places = if size >= 9.995 {
        1
    } else if size >= 0.9995 {
        2
    } else {
        // 0.00123 needs five places for three digits; below a millionth nothing is told apart.
        (2.0 - size.log10().floor()).clamp(3.0, 8.0) as usize
    };
    format!("{value:.places$}")
}

/// A whole number with a comma between thousands.
pub(super) fn grouped(value: f64) -> String {
    let plain = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(plain.len() * 4 / 3 + 1);
    if value < 0.0 && plain != "0" {
        text.push('-');
    }
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text from outside without what could move a cursor or break an XML file; shortened to 400 characters.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned: String = text
        .chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '\u{200b}'..='\u{202e}') {
                ' '
            } else {
                c
            }
        })
        .take(400)
        .collect();
    if text.chars().nth(400).is_some() {
        cleaned.push('…');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_the_unit_that_fits() {
        let write = |ns| Quantity::Time.write(ns);
        assert_eq!(write(0.0), "0 ns");
        assert_eq!(write(812.0), "812 ns");
        assert_eq!(write(3_400.0), "3.40 µs");
        assert_eq!(write(999_900.0), "1.00 ms");
        assert_eq!(write(21_400_000.0), "21.4 ms");
        assert_eq!(write(5.0e12), "5,000 s");
    }

    #[test]
    fn counts_rates_sizes_and_shares_carry_their_units() {
        assert_eq!(Quantity::Count.write(12_000_000.0), "12,000,000");
        assert_eq!(Quantity::Count.write(-1_234.0), "-1,234");
        assert_eq!(Quantity::Rate.write(7_812_345.0), "7.81 M/s");
        assert_eq!(Quantity::Rate.write(2_000.0), "2,000 /s");
        assert_eq!(Quantity::Bytes.write(1536.0), "1.50 KiB");
        assert_eq!(Quantity::ByteRate.write(42.0e6), "42.0 MB/s");
        assert_eq!(Quantity::Share.write(0.876), "87.6 %");
        assert_eq!(Quantity::Plain.write(0.001_234), "0.00123");
        assert_eq!(Quantity::Time.write(f64::NAN), "unknown");
    }

    #[test]
    fn a_range_repeats_neither_unit_nor_value() {
        let write = |median, min, max| Spread { median, min, max }.write(Quantity::Time);
        assert_eq!(write(2e6, 1e6, 3e6), "2.00 ms [1.00 3.00]");
        assert_eq!(write(1e6, 9e5, 3e6), "1.00 ms [900 µs 3.00 ms]");
        assert_eq!(write(2e6, 2e6 - 1.0, 2e6 + 1.0), "2.00 ms");
        assert_eq!(Spread { median: 2.0, min: 1.0, max: 3.0 }.write(Quantity::Count), "2 [1 3]");
    }

    #[test]
    fn text_from_outside_moves_no_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb\0c"), "a [2Jb c");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), 401);
    }
}
