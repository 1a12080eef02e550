//! The one price of a quote: the exact middle of bid and ask, never through a float.
#![forbid(unsafe_code)]

use tickcast_protocol::Decimal;
use tickcast_protocol::decimal::EXPONENT_MAX;

use crate::write;

/// Appends the exact middle of two values as a JSON number.
pub(super) fn middle(bid: Decimal, ask: Decimal, out: &mut Vec<u8>) {
    match bid.midpoint(ask) {
        Some(middle) => write::plain(middle, out),
        None => long_middle(bid, ask, out),
    }
}

/// The same for a middle of more digits than a [`Decimal`] has, by addition on paper: the sum times five, one
/// place further right. The two differ by at most 128 places, so the text is short.
fn long_middle(bid: Decimal, ask: Decimal, out: &mut Vec<u8>) {
    let exponent = bid.exponent().min(ask.exponent());
    let (a, b) = (digits(bid, exponent), digits(ask, exponent));
    let (sum, negative) = match (bid.mantissa() < 0, ask.mantissa() < 0) {
        (negative, other) if negative == other => (add(&a, &b), negative),
        (negative, _) if a.iter().rev().ge(b.iter().rev()) => (subtract(&a, &b), negative),
        (_, negative) => (subtract(&b, &a), negative),
    };
    let mut carry = 0;
    let mut middle: Vec<u8> = sum
        .iter()
        .map(|digit| {
            let value = digit * 5 + carry;
            carry = value / 10;
            value % 10
        })
        .collect();
    middle.push(carry);
    let mut scale = i32::from(exponent) - 1;
    if scale < 0 && middle[0] == 0 {
        middle.remove(0);
        scale += 1;
    }
    let zeros = usize::try_from(scale).unwrap_or(0);
    middle.splice(0..0, std::iter::repeat_n(0, zeros));
    let places = usize::try_from(-scale).unwrap_or(0);
    // One digit before the point at least, and no zero before others.
    let length = middle.iter().rposition(|digit| *digit != 0).map_or(1, |last| last + 1).max(places + 1);
    if negative {
        out.push(b'-');
    }
    for (place, digit) in middle[..length].iter().enumerate().rev() {
        out.push(b'0' + digit);
        if place == places && place > 0 {
            out.push(b'.');
        }
    }
}

/// The digits of a magnitude at the scale of `exponent`, lowest first, in a fixed width so that two align.
fn digits(value: Decimal, exponent: i8) -> Vec<u8> {
    const WIDTH: usize = 18 + 2 * EXPONENT_MAX as usize + 1;
    let shift = usize::from(value.exponent().abs_diff(exponent));
    let mut digits = vec![0; shift];
    let mut rest = value.mantissa().unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10) as u8);
        rest /= 10;
    }
    digits.resize(WIDTH, 0);
    digits
}

fn add(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let place = |(a, b): (&u8, &u8)| {
        let sum = a + b + carry;
        carry = sum / 10;
        sum % 10
    };
    a.iter().zip(b).map(place).collect()
}

/// `from - less`, which must not be larger.
fn subtract(from: &[u8], less: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let place = |(from, less): (&u8, &u8)| {
        let difference = 10 + from - less - borrow;
        borrow = u8::from(difference < 10);
        difference % 10
    };
    from.iter().zip(less).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn long(bid: &str, ask: &str) -> String {
        let mut out = Vec::new();
        long_middle(bid.parse().unwrap(), ask.parse().unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_middle_of_any_length_is_exact() {
        for (bid, ask, expected) in [
            ("1", "2", "1.5"),
            ("1.0", "3", "2.0"),
            ("999999999999999999", "0.0001", "499999999999999999.50005"),
            ("999999999999999999", "999999999999999998", "999999999999999998.5"),
            ("999999999999999999e5", "999999999999999998e5", "99999999999999999850000"),
            ("-999999999999999999", "0.0001", "-499999999999999999.49995"),
            ("0.0001", "-999999999999999999", "-499999999999999999.49995"),
            ("-3", "-4", "-3.5"),
            ("1e30", "1e-5", "500000000000000000000000000000.000005"),
            ("0.000000000000000001", "0.000000000000000002", "0.0000000000000000015"),
        ] {
            assert_eq!(long(bid, ask), expected, "{bid} {ask}");
        }
        assert_eq!(long("1e64", "1e-64").len(), 64 + 1 + 65);
    }

    proptest! {
        #[test]
        fn the_long_way_agrees_with_the_short_one(
            a in -(10i64.pow(17))..10i64.pow(17), b in -(10i64.pow(17))..10i64.pow(17),
            x in -6i8..=3, y in -6i8..=3,
        ) {
            let (a, b) = (Decimal::new(a, x).unwrap(), Decimal::new(b, y).unwrap());
            if let Some(middle) = a.midpoint(b) {
                let mut out = Vec::new();
                long_middle(a, b, &mut out);
                let text = String::from_utf8(out).unwrap();
                let expected = middle.to_string();
                prop_assert_eq!(text.trim_start_matches('-'), expected.trim_start_matches('-'));
                prop_assert!(middle.mantissa() == 0 || text.starts_with('-') == expected.starts_with('-'));
            }
        }
    }
}
