//! Dates and timestamps in text: the forms of PostgreSQL's input that mean the same under every `DateStyle`
//! and `TimeZone`.

use super::{is_space, trim};
use crate::copy::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS};

/// Why a text is no date or timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeRefusal {
    /// It is written otherwise.
    Form,
    /// There is no such month, day, time or offset.
    Field,
    /// It is outside the server's calendar.
    Calendar,
}

/// The calendar of `date`, in days since 2000 (the manual, "Date/Time Types": from 4713 BC to 5874897 AD).
pub const DATES: std::ops::RangeInclusive<i64> = -2_451_545..=2_145_031_948;

/// The calendar of timestamps, in microseconds since 2000: from 4713 BC to before 294277 AD.
pub const TIMESTAMPS: std::ops::RangeInclusive<i64> = -211_813_488_000_000_000..=9_223_371_331_199_999_999;

const SECOND_MICROS: i64 = 1_000_000;
const DAY_MICROS: i64 = 86_400 * SECOND_MICROS;

/// The server takes offsets of less than 16 hours (`MAX_TZDISP_HOUR`).
const OFFSET_HOURS_MAX: i64 = 15;

/// Days since 2000; a time and an offset in the text are checked and left aside.
pub fn date(text: &[u8]) -> Result<i32, TimeRefusal> {
    match moment(text)? {
        Moment::Past => Ok(i32::MIN),
        Moment::Future => Ok(i32::MAX),
        Moment::At { day, .. } => {
            let day = day - i64::from(POSTGRES_EPOCH_DAYS);
            if DATES.contains(&day) { Ok(day as i32) } else { Err(TimeRefusal::Calendar) }
        }
    }
}

/// Microseconds since 2000. With `zoned`, the text's offset is taken off, and a text without one is UTC; else
/// an offset is checked and left aside.
pub fn timestamp(text: &[u8], zoned: bool) -> Result<i64, TimeRefusal> {
    match moment(text)? {
        Moment::Past => Ok(i64::MIN),
        Moment::Future => Ok(i64::MAX),
        Moment::At { day, micros, offset } => {
            let local = i128::from(day) * i128::from(DAY_MICROS) + i128::from(micros);
            let offset = if zoned { offset * SECOND_MICROS } else { 0 };
            let since_2000 = i64::try_from(local - i128::from(offset) - i128::from(POSTGRES_EPOCH_MICROS));
            since_2000.ok().filter(|micros| TIMESTAMPS.contains(micros)).ok_or(TimeRefusal::Calendar)
        }
    }
}

enum Moment {
    Past,
    Future,
    At {
        /// Since 1970.
        day: i64,
        /// Since the day began; a leap second or 24:00 reaches into the next.
        micros: i64,
        /// Seconds east of UTC.
        offset: i64,
    },
}

fn moment(text: &[u8]) -> Result<Moment, TimeRefusal> {
    let text = trim(text);
    if text.first().is_some_and(|first| !first.is_ascii_digit()) {
        return match &text.to_ascii_lowercase()[..] {
            b"infinity" => Ok(Moment::Future),
            b"-infinity" => Ok(Moment::Past),
            b"epoch" => Ok(Moment::At { day: 0, micros: 0, offset: 0 }),
            _ => Err(TimeRefusal::Form),
        };
    }
    let (text, before_christ) = without_era(text);
    let mut rest = Rest(text);
    let day = rest.date(before_christ)?;
    if rest.0.is_empty() {
        return Ok(Moment::At { day, micros: 0, offset: 0 });
    }
    let micros = rest.time()?;
    let offset = rest.offset()?;
    if rest.0.is_empty() { Ok(Moment::At { day, micros, offset }) } else { Err(TimeRefusal::Form) }
}

/// The text without a final `BC` or `AD`, and whether it was `BC`.
fn without_era(text: &[u8]) -> (&[u8], bool) {
    if let [before @ .., blank, first, second] = text
        && is_space(*blank)
    {
        match [first.to_ascii_lowercase(), second.to_ascii_lowercase()] {
            [b'b', b'c'] => return (trim(before), true),
            [b'a', b'd'] => return (trim(before), false),
            _ => {}
        }
    }
    (text, false)
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// `2024-01-31`, where month and day may have one digit, or `20240131`; in days since 1970.
    fn date(&mut self, before_christ: bool) -> Result<i64, TimeRefusal> {
        let (mut year, month, day) = match self.digit_count() {
            8 => (self.number(4, 4)?, self.number(2, 2)?, self.number(2, 2)?),
            4..=7 => {
                let year = self.number(4, 7)?;
                self.byte(b'-')?;
                let month = self.number(1, 2)?;
                self.byte(b'-')?;
                (year, month, self.number(1, 2)?)
            }
            _ => return Err(TimeRefusal::Form),
        };
        // The server's calendar has no year 0.
        if year == 0 || !(1..=12).contains(&month) {
            return Err(TimeRefusal::Field);
        }
        if before_christ {
            year = 1 - year;
        }
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if !(1..=days).contains(&day) {
            return Err(TimeRefusal::Field);
        }
        Ok(days_since_1970(year, month, day))
    }

    /// Blanks or a `T`, then `12:30`, `12:30:59` or `12:30:59.5`; in microseconds.
    fn time(&mut self) -> Result<i64, TimeRefusal> {
        match self.0 {
            [b'T' | b't', rest @ ..] => self.0 = rest,
            [blank, ..] if is_space(*blank) => self.skip_spaces(),
            _ => return Err(TimeRefusal::Form),
        }
        let hour = self.number(1, 2)?;
        self.byte(b':')?;
        let minute = self.number(2, 2)?;
        let (mut second, mut fraction) = (0, 0);
        if self.0.first() == Some(&b':') {
            self.byte(b':')?;
            second = self.number(2, 2)?;
            if self.0.first() == Some(&b'.') {
                fraction = self.fraction()?;
            }
        }
        // 23:59:60 is the next day's midnight, and so is 24:00.
        let last = hour == 24 && (minute, second, fraction) == (0, 0, 0);
        if hour > 23 && !last || minute > 59 || second > 60 || second == 60 && fraction > 0 {
            return Err(TimeRefusal::Field);
        }
        Ok(((hour * 60 + minute) * 60 + second) * SECOND_MICROS + fraction)
    }

    /// A point and digits, in microseconds: computed in double precision as the server does, which decides
    /// about what is finer.
    fn fraction(&mut self) -> Result<i64, TimeRefusal> {
        let digits = self.0[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = self.0.get(..=digits).filter(|_| digits > 0);
        let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(TimeRefusal::Form)?;
        let fraction: f64 = text.parse().map_err(|_| TimeRefusal::Form)?;
        self.0 = &self.0[1 + digits..];
        Ok((fraction * SECOND_MICROS as f64).round_ties_even() as i64)
    }

    /// Nothing, `Z`, `UTC`, or `+02`, `+0230`, `+02:30`, `+02:30:15`; in seconds east of UTC.
    fn offset(&mut self) -> Result<i64, TimeRefusal> {
        self.skip_spaces();
        let sign = match self.0 {
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            word if word.eq_ignore_ascii_case(b"z") || word.eq_ignore_ascii_case(b"utc") => {
                self.0 = &[];
                return Ok(0);
            }
            // What is left is no offset, and not the end either.
            _ => return Ok(0),
        };
        self.0 = &self.0[1..];
        let (mut minute, mut second) = (0, 0);
        let hour;
        if self.digit_count() == 4 {
            hour = self.number(2, 2)?;
            minute = self.number(2, 2)?;
        } else {
            hour = self.number(1, 2)?;
            if self.0.first() == Some(&b':') {
                self.byte(b':')?;
                minute = self.number(2, 2)?;
                if self.0.first() == Some(&b':') {
                    self.byte(b':')?;
                    second = self.number(2, 2)?;
                }
            }
        }
        if hour > OFFSET_HOURS_MAX || minute > 59 || second > 59 {
            return Err(TimeRefusal::Field);
        }
        Ok(sign * ((hour * 60 + minute) * 60 + second))
    }

    fn digit_count(&self) -> usize {
        self.0.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// As many digits as there are, but no more than `most`; what follows is looked at by who comes next.
    fn number(&mut self, least: usize, most: usize) -> Result<i64, TimeRefusal> {
        let count = self.digit_count().min(most);
        if count < least {
            return Err(TimeRefusal::Form);
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    fn byte(&mut self, expected: u8) -> Result<(), TimeRefusal> {
        match self.0 {
            [first, rest @ ..] if *first == expected => {
                self.0 = rest;
                Ok(())
            }
            _ => Err(TimeRefusal::Form),
        }
    }

    fn skip_spaces(&mut self) {
        while let [blank, rest @ ..] = self.0
            && is_space(*blank)
        {
            self.0 = rest;
        }
    }
}

/// Days of the Gregorian calendar, extended to all years; 1 BC is year 0.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str, zoned: bool) -> Result<i64, TimeRefusal> {
        timestamp(text.as_bytes(), zoned).map(|micros| (micros + POSTGRES_EPOCH_MICROS) / SECOND_MICROS)
    }

    #[test]
    fn moments_are_read_in_their_forms() {
        for (text, expected) in [
            ("1970-01-02", 86_400),
            ("19700102", 86_400),
            (" 1970-1-2 00:00:01\n", 86_401),
            ("1970-01-01T00:02", 120),
            ("1970-01-01 02:02+02", 120),
            ("1970-01-01 02:30:15 +02:30:15", 0),
            ("1970-01-01 02:30-0230", 18_000),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01 00:00:00 UTC", 0),
            ("1970-01-01 24:00:00", 86_400),
            ("1970-01-01 23:59:60", 86_400),
            ("0001-01-01 AD", -62_135_596_800),
            ("0001-12-31 23:59:59 BC", -62_135_596_801),
            ("epoch", 0),
        ] {
            assert_eq!(seconds(text, true), Ok(expected), "{text}");
        }
        assert_eq!(seconds("1970-01-01 02:00+02", false), Ok(7_200));
        assert_eq!(timestamp(b"Infinity", true), Ok(i64::MAX));
        assert_eq!(date(b"-infinity"), Ok(i32::MIN));
        assert_eq!(date(b"2000-01-02 23:00-08"), Ok(1));
        assert_eq!(timestamp(b"2000-01-01 00:00:00.0000005", true), Ok(0));
        assert_eq!(timestamp(b"2000-01-01 00:00:00.9999999", true), Ok(1_000_000));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "now",
            "01/02/2024",
            "2024/01/02",
            "2-Jan-2024",
            "Jan 2 2024",
            "24-01-02",
            "240102",
            "2024-01",
            "2024-01-02T",
            "2024-01-02 ",
            "2024-01-02 1",
            "2024-01-02 01:2",
            "2024-01-02 01:02:3",
            "2024-01-02 01:02:03.",
            "2024-01-02Z",
            "2024-01-02 01:02 PM",
            "2024-01-02 01:02 Europe/Berlin",
            "2024-01-02 01:02 CET",
            "2024-01-02 01:02+020",
            "2024-01-02 01:02,5",
            "2024-01-02  BC x",
            "2024-01-02 01:02:03+02:",
            "2024-01-02TT01:02",
            "+2024-01-02",
            "BC",
        ] {
            let trimmed = text == "2024-01-02 ";
            assert_eq!(seconds(text, true).is_err(), !trimmed, "{text}");
        }
        for text in [
            "0000-01-01",
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-04-31",
            "1900-02-29",
            "2024-01-02 24:00:01",
            "2024-01-02 25:00",
            "2024-01-02 01:60",
            "2024-01-02 01:02:61",
            "2024-01-02 01:02+16",
            "2024-01-02 01:02+02:60",
        ] {
            assert_eq!(seconds(text, true), Err(TimeRefusal::Field), "{text}");
        }
        for text in ["294277-01-01", "4714-11-23 BC"] {
            assert_eq!(seconds(text, true), Err(TimeRefusal::Calendar), "{text}");
        }
        assert_eq!(date(b"5874898-01-01"), Err(TimeRefusal::Calendar));
    }
}
