//! Numbers as DynamoDB holds them: 38 significant decimal digits, never through a float.

use std::fmt;
use std::str::FromStr;

/// DynamoDB keeps up to this many significant digits (AWS, "Naming rules and data types").
const DIGITS_MAX: usize = 38;
/// The largest exponent of the leading digit: 9.99…e125 is the largest magnitude (same page).
const EXPONENT_MAX: i64 = 125;
/// The smallest exponent of the leading digit: 1e-130 is the smallest magnitude (same page).
const EXPONENT_MIN: i64 = -130;

/// A decimal number in one form per value: equal numbers are equal texts (`1.50` is `1.5`, `-0` is `0`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(String);

/// Why a text is not a number that DynamoDB can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not a decimal number at all.
    #[error("not a number")]
    Syntax,
    /// More significant digits than fit.
    #[error("more than 38 significant digits")]
    Digits,
    /// Outside 1e-130 to 9.99…e125.
    #[error("outside 1e-130 to 9.99e125")]
    Range,
}

impl Number {
    /// Its one text, which DynamoDB and JSON both read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole number it is, if it is one and fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }
}

impl FromStr for Number {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
            None => (unsigned, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(NumberError::Syntax);
        }
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(NumberError::Syntax);
        }
        let exponent_valid = exponent.is_none_or(|exponent| {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if !exponent_valid {
            return Err(NumberError::Syntax);
        }

        let digits = format!("{whole}{fraction}");
        let leading_zeros = digits.len() - digits.trim_start_matches('0').len();
        let significant = digits.trim_matches('0');
        if significant.is_empty() {
            return Ok(Self("0".to_owned()));
        }
        if significant.len() > DIGITS_MAX {
            return Err(NumberError::Digits);
        }
        // An exponent too long for i64 is out of range whatever the digits are.
        let exponent: i64 = exponent.map_or(Ok(0), str::parse).map_err(|_| NumberError::Range)?;
        let shift =
            i64::try_from(whole.len()).and_then(|whole| Ok(whole - i64::try_from(leading_zeros)? - 1));
        let leading =
            exponent.checked_add(shift.map_err(|_| NumberError::Range)?).ok_or(NumberError::Range)?;
        if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&leading) {
            return Err(NumberError::Range);
        }
        Ok(Self(render(negative, significant, leading)))
    }
}

/// One text per value: plain digits where that is short, else scientific.
fn render(negative: bool, significant: &str, leading: i64) -> String {
    let sign = if negative { "-" } else { "" };
    let count = i64::try_from(significant.len()).expect("invariant: at most 38 digits");
    let plain_max = i64::try_from(DIGITS_MAX).expect("invariant: 38");
    if (0..plain_max).contains(&leading) {
        let point = usize::try_from(leading + 1).expect("invariant: not negative");
        return if count <= leading + 1 {
            let zeros = "0".repeat(point - significant.len());
            format!("{sign}{significant}{zeros}")
        } else {
            format!("{sign}{}.{}", &significant[..point], &significant[point..])
        };
    }
    if (-6..0).contains(&leading) {
        let zeros = "0".repeat(usize::try_from(-leading - 1).expect("invariant: not negative"));
        return format!("{sign}0.{zeros}{significant}");
    }
    let (first, rest) = significant.split_at(1);
    if rest.is_empty() {
        format!("{sign}{first}e{leading}")
    } else {
        format!("{sign}{first}.{rest}e{leading}")
    }
}

impl From<i128> for Number {
    fn from(number: i128) -> Self {
        // At most 39 digits; a value beyond 38 significant ones cannot come from a counter or a time.
        number.to_string().parse().expect("invariant: counters and times have at most 38 digits")
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<String, NumberError> {
        text.parse::<Number>().map(|number| number.0)
    }

    #[test]
    fn equal_values_have_one_text() {
        for (text, expected) in [
            ("1.50", "1.5"),
            ("-0", "0"),
            ("0e999999999999999999999", "0"),
            ("100", "100"),
            ("1e2", "100"),
            ("0.00001", "0.00001"),
            ("1E-5", "0.00001"),
            ("12.5e-1", "1.25"),
            ("9007199254740993", "9007199254740993"),
            ("1e125", "1e125"),
            ("1000e122", "1e125"),
            ("-1.25e-130", "-1.25e-130"),
            ("123456789012345678901234567890123456780000", "1.2345678901234567890123456789012345678e41"),
        ] {
            assert_eq!(number(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(number("1e126"), Err(NumberError::Range));
        assert_eq!(number("1e-131"), Err(NumberError::Range));
        assert_eq!(number("1e99999999999999999999"), Err(NumberError::Range));
        assert_eq!(number(&"1".repeat(39)), Err(NumberError::Digits));
        for text in ["", "-", ".", "1e", "e5", "0x10", "1.2.3", "NaN", "1e5.5", "１"] {
            assert_eq!(number(text), Err(NumberError::Syntax), "{text}");
        }
    }
}
