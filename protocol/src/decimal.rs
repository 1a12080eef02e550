//! Exact decimal numbers: a mantissa and a power of ten, parsed from text, never through a float.
//!
//! Exchanges send prices as text such as `1.121200`; the trailing zeros are part of what was said, so
//! two decimals are equal only when mantissa and exponent both are. [`Decimal::compare`] compares values.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// Most significant digits a mantissa may have. Every such mantissa fits an `i64`.
pub const DIGITS_MAX: u32 = 18;
/// Largest distance of the exponent from zero: keeps plain notation under about 90 characters.
pub const EXPONENT_MAX: i8 = 64;

const MANTISSA_LIMIT: i64 = 10i64.pow(DIGITS_MAX);

/// `mantissa * 10^exponent`, as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct Decimal {
    mantissa: i64,
    exponent: i8,
}

/// Why a text is not a [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not of the form `[+-]digits[.digits][e[+-]digits]`.
    #[error("not a decimal number")]
    Syntax,
    /// More significant digits than [`DIGITS_MAX`].
    #[error("more than {DIGITS_MAX} significant digits")]
    Digits,
    /// An exponent further from zero than [`EXPONENT_MAX`].
    #[error("exponent outside -{EXPONENT_MAX} to {EXPONENT_MAX}")]
    Exponent,
}

impl Decimal {
    /// Makes a decimal from its parts.
    ///
    /// # Errors
    /// When the mantissa has more than [`DIGITS_MAX`] digits or the exponent exceeds [`EXPONENT_MAX`].
    pub const fn new(mantissa: i64, exponent: i8) -> Result<Self, DecimalError> {
        if mantissa <= -MANTISSA_LIMIT || mantissa >= MANTISSA_LIMIT {
            return Err(DecimalError::Digits);
        }
        if exponent < -EXPONENT_MAX || exponent > EXPONENT_MAX {
            return Err(DecimalError::Exponent);
        }
        Ok(Self { mantissa, exponent })
    }

    /// The digits, with sign.
    #[must_use]
    pub const fn mantissa(self) -> i64 {
        self.mantissa
    }

    /// The power of ten.
    #[must_use]
    pub const fn exponent(self) -> i8 {
        self.exponent
    }

    /// The same value with the fewest digits: what is equal by [`Decimal::compare`] is the same trimmed.
    #[must_use]
    pub fn trimmed(self) -> Self {
        let Self { mut mantissa, mut exponent } = self;
        if mantissa == 0 {
            return Self::default();
        }
        while mantissa % 10 == 0 && exponent < EXPONENT_MAX {
            mantissa /= 10;
            exponent += 1;
        }
        Self { mantissa, exponent }
    }

    /// Orders by value: `1.10` and `1.1` are equal here although they differ as decimals.
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        let sign = self.mantissa.signum().cmp(&other.mantissa.signum());
        if sign != Ordering::Equal || self.mantissa == 0 {
            return sign;
        }
        // Same sign, not zero: compare magnitudes by the place of the first digit, then digit by digit.
        let (a, b) = (self.mantissa.unsigned_abs(), other.mantissa.unsigned_abs());
        let place = |digits: u64, exponent: i8| digits.ilog10() as i32 + i32::from(exponent);
        let (place_a, place_b) = (place(a, self.exponent), place(b, other.exponent));
        let magnitude = place_a.cmp(&place_b).then_with(|| {
            // With equal places the scales differ by the digit counts, so by less than DIGITS_MAX.
            let shift = i32::from(self.exponent) - i32::from(other.exponent);
            let scale = 10u128.pow(shift.unsigned_abs());
            if shift >= 0 {
                (u128::from(a) * scale).cmp(&u128::from(b))
            } else {
                u128::from(a).cmp(&(u128::from(b) * scale))
            }
        });
        if self.mantissa < 0 { magnitude.reverse() } else { magnitude }
    }

    /// The exact middle of two values, or `None` when it has more than [`DIGITS_MAX`] digits.
    /// Keeps the finer of the two scales, with one digit more only where the middle needs it.
    #[must_use]
    pub fn midpoint(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let at_scale = |value: Self| {
            let shift = u32::from(value.exponent.abs_diff(exponent));
            // 10^18 * 10^20 still fits; a wider spread cannot have an 18-digit middle unless it is zero.
            if value.mantissa == 0 {
                return Some(0);
            }
            (shift <= 20).then(|| i128::from(value.mantissa) * 10i128.pow(shift))
        };
        let sum = at_scale(self)?.checked_add(at_scale(other)?)?;
        let (mantissa, exponent) =
            if sum % 2 == 0 { (sum / 2, exponent) } else { (sum.checked_mul(5)?, exponent.checked_sub(1)?) };
        Self::new(i64::try_from(mantissa).ok()?, exponent).ok()
    }

    /// The nearest float, for analytics and display; never for a value that is sent on.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        // The shortest path that rounds once: let the standard library read the exact text.
        format!("{}e{}", self.mantissa, self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// True when every one of these bytes is a value this crate would have made.
    pub(crate) fn from_archived(archived: &ArchivedDecimal) -> Result<Self, DecimalError> {
        Self::new(archived.mantissa.to_native(), archived.exponent)
    }
}

impl From<i32> for Decimal {
    fn from(value: i32) -> Self {
        Self { mantissa: i64::from(value), exponent: 0 }
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let bytes = text.as_bytes();
        let (negative, mut rest) = match bytes.first() {
            Some(b'-') => (true, &bytes[1..]),
            Some(b'+') => (false, &bytes[1..]),
            _ => (false, bytes),
        };
        let mut mantissa: i64 = 0;
        let mut scale: i32 = 0;
        let (mut any, mut point) = (false, false);
        while let Some((&byte, tail)) = rest.split_first() {
            match byte {
                b'0'..=b'9' => {
                    any = true;
                    if mantissa >= MANTISSA_LIMIT / 10 {
                        return Err(DecimalError::Digits);
                    }
                    mantissa = mantissa * 10 + i64::from(byte - b'0');
                    if point {
                        scale -= 1;
                        if scale < -256 {
                            return Err(DecimalError::Exponent);
                        }
                    }
                }
                b'.' if !point => point = true,
                b'e' | b'E' if any => {
                    scale += parse_exponent(tail)?;
                    rest = &[];
                    break;
                }
                _ => return Err(DecimalError::Syntax),
            }
            rest = tail;
        }
        if !any || !rest.is_empty() || bytes.last() == Some(&b'.') {
            return Err(DecimalError::Syntax);
        }
        let exponent = i8::try_from(scale).map_err(|_| DecimalError::Exponent)?;
        Self::new(if negative { -mantissa } else { mantissa }, exponent)
    }
}

fn parse_exponent(text: &[u8]) -> Result<i32, DecimalError> {
    let (sign, digits) = match text.first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(DecimalError::Syntax);
    }
    let mut value = 0i32;
    for digit in digits {
        value = value * 10 + i32::from(digit - b'0');
        if value > 1_000 {
            return Err(DecimalError::Exponent);
        }
    }
    Ok(sign * value)
}

/// Plain notation, never an exponent: `2e-06` prints as `0.000002`.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mantissa < 0 {
            f.write_str("-")?;
        }
        let digits = self.mantissa.unsigned_abs();
        if self.exponent >= 0 {
            write!(f, "{digits}")?;
            if digits != 0 {
                write!(f, "{:0<1$}", "", usize::from(self.exponent.unsigned_abs()))?;
            }
            return Ok(());
        }
        let places = usize::from(self.exponent.unsigned_abs());
        // At least one digit before the point.
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        write!(f, "{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_kept_to_the_digit() {
        for (text, mantissa, exponent, printed) in [
            ("1.121200", 1_121_200, -6, "1.121200"),
            ("2e-06", 2, -6, "0.000002"),
            ("39432.99", 3_943_299, -2, "39432.99"),
            ("0.00031099999999999997", 31_099_999_999_999_997, -20, "0.00031099999999999997"),
            ("-0.5", -5, -1, "-0.5"),
            ("1E3", 1, 3, "1000"),
            ("0", 0, 0, "0"),
            ("0.00", 0, -2, "0.00"),
            ("+7", 7, 0, "7"),
            ("999999999999999999", 999_999_999_999_999_999, 0, "999999999999999999"),
        ] {
            let value = decimal(text);
            assert_eq!((value.mantissa(), value.exponent()), (mantissa, exponent), "{text}");
            assert_eq!(value.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for (text, error) in [
            ("", DecimalError::Syntax),
            ("-", DecimalError::Syntax),
            (".", DecimalError::Syntax),
            ("1.", DecimalError::Syntax),
            ("e5", DecimalError::Syntax),
            ("1e", DecimalError::Syntax),
            ("1e+", DecimalError::Syntax),
            ("1.2.3", DecimalError::Syntax),
            ("NaN", DecimalError::Syntax),
            ("inf", DecimalError::Syntax),
            ("1 ", DecimalError::Syntax),
            ("1000000000000000000", DecimalError::Digits),
            ("1e400", DecimalError::Exponent),
            ("1e99999999999", DecimalError::Exponent),
            ("1e65", DecimalError::Exponent),
        ] {
            assert_eq!(text.parse::<Decimal>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_middle_is_exact() {
        for (a, b, middle) in [
            ("39432.99", "39433.62", "39433.305"),
            ("1.121200", "1.121720", "1.121460"),
            ("1", "2", "1.5"),
            ("1.0", "2", "1.5"),
            ("-1", "1", "0"),
        ] {
            assert_eq!(decimal(a).midpoint(decimal(b)), Some(decimal(middle)), "{a} {b}");
        }
        assert_eq!(decimal("999999999999999999").midpoint(decimal("0.0001")), None);
        for (low, high) in
            (-EXPONENT_MAX..=EXPONENT_MAX).flat_map(|low| [(low, EXPONENT_MAX), (low, -EXPONENT_MAX)])
        {
            for mantissa in [0, 1, MANTISSA_LIMIT - 1] {
                let (a, b) = (Decimal::new(mantissa, low).unwrap(), Decimal::new(1, high).unwrap());
                assert_eq!(a.midpoint(b), b.midpoint(a), "{low} {high}: answered, whatever the spread");
                assert_eq!(a.compare(b), b.compare(a).reverse());
            }
        }
    }

    #[test]
    fn values_compare_across_scales() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("1.10", "1.1", Equal),
            ("1e64", "1e-64", Greater),
            ("-1e64", "1e-64", Less),
            ("-2", "-1", Less),
            ("0", "0.00", Equal),
            ("99", "1e2", Less),
            ("100.0", "1e2", Equal),
        ] {
            assert_eq!(decimal(a).compare(decimal(b)), order, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn printing_then_parsing_keeps_the_value(mantissa in -MANTISSA_LIMIT + 1..MANTISSA_LIMIT, exponent in -40i8..=0) {
            let value = Decimal::new(mantissa, exponent).unwrap();
            prop_assert_eq!(value.to_string().parse::<Decimal>().unwrap(), value);
        }

        #[test]
        fn equal_values_are_the_same_trimmed(
            a in -300i64..300, b in -300i64..300, low in -3i8..=3, high in EXPONENT_MAX - 3..=EXPONENT_MAX,
        ) {
            for (left, right) in [((a, low), (b, 0)), ((a, high), (b, EXPONENT_MAX - 1))] {
                let left = Decimal::new(left.0, left.1).unwrap();
                let right = Decimal::new(right.0, right.1).unwrap();
                prop_assert_eq!(left.trimmed().compare(left), Ordering::Equal);
                prop_assert_eq!(left.compare(right) == Ordering::Equal, left.trimmed() == right.trimmed());
            }
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = text.parse::<Decimal>();
        }

        #[test]
        fn comparison_agrees_with_floats_where_those_are_exact(a in -100_000i64..100_000, b in -100_000i64..100_000, scale in -3i8..=3) {
            let (left, right) = (Decimal::new(a, scale).unwrap(), Decimal::new(b, 0).unwrap());
            let float = (a as f64 * 10f64.powi(scale.into())).partial_cmp(&(b as f64)).unwrap();
            prop_assume!((a as f64 * 10f64.powi(scale.into()) - b as f64).abs() > 1e-6 || float == Ordering::Equal);
            prop_assert_eq!(left.compare(right), float);
        }
    }
}
