//! Embeddings in text against pgvector's own input, bit for bit, and refusal for refusal.
//!
//! `VECLOAD_FLOAT_TEXTS=10000000` compares that many texts instead of those that fit a usual test run.

use vecload::batch::embedding::{element_refusal, read_text};
use vecload::copy::{put_halfvec, put_vector};

use super::rows::hash;
use super::server::Db;

/// How the server reads each text, or null where it refuses one.
const READ_ALL: &str = "
create function read_vectors(texts text[]) returns setof bytea language plpgsql as $f$
declare t text;
begin
    foreach t in array texts loop
        begin
            return next vector_send(t::vector);
        exception when data_exception or program_limit_exceeded then
            return next null;
        end;
    end loop;
end $f$;
create function read_halves(texts text[]) returns setof bytea language plpgsql as $f$
declare t text;
begin
    foreach t in array texts loop
        begin
            return next halfvec_send(t::halfvec);
        exception when data_exception or program_limit_exceeded then
            return next null;
        end;
    end loop;
end $f$";

/// Texts of one question to the server.
const TEXTS_AT_A_TIME: usize = 10_000;

#[test]
fn texts_give_the_bits_that_pgvector_reads() {
    let wanted = std::env::var("VECLOAD_FLOAT_TEXTS").ok().map(|count| count.parse().expect("a number"));
    let wanted = wanted.unwrap_or(200_000);
    let db = Db::new();
    db.run(READ_ALL);
    let mut texts = adversarial();
    let mut random = Random(1);
    let (mut compared, mut refused) = (0, 0);
    while compared < wanted {
        texts.extend((texts.len()..TEXTS_AT_A_TIME).map(|_| random.vector()));
        refused += compare(&db, "read_vectors", false, &texts);
        compared += texts.len();
        texts.clear();
    }
    println!("{compared} texts compared, {refused} of them refused by both");
    assert!(refused > compared / 100 && refused < compared / 2, "{refused} of {compared} are refused");
}

#[test]
fn texts_of_halves_are_rounded_as_pgvector_rounds_them() {
    let db = Db::new();
    db.run(READ_ALL);
    let mut random = Random(2);
    let mut texts: Vec<String> = [
        "65504",
        "65519.99",
        "65519.999999999999",
        "65520",
        "-65520",
        "1e39",
        "2.98023224e-8",
        "2.9802322387695312e-8",
    ]
    .map(|text| format!("[{text}]"))
    .into();
    for bits in (0..0x7c00u16).step_by(3) {
        let (low, high) = (half::f16::from_bits(bits), half::f16::from_bits(bits + 1));
        let middle = (low.to_f64() + high.to_f64()) / 2.0;
        let exact = format!("{middle:.40}");
        let digits = exact.trim_end_matches('0');
        // On the middle, and so near that rounding to a float first decides.
        texts.push(format!("[{digits},-{digits}0000000001]"));
        texts.push(format!("[{}]", below(digits)));
    }
    texts.extend((0..5_000).map(|_| random.vector()));
    compare(&db, "read_halves", true, &texts);
}

/// Compares; gives the number of texts that both refuse.
#[track_caller]
fn compare(db: &Db, function: &str, half: bool, texts: &[String]) -> usize {
    let rows = db.rows(&format!("select {function}($1)"), &[&texts]);
    assert_eq!(rows.len(), texts.len());
    let (mut refused, mut values, mut bytes) = (0, Vec::new(), Vec::new());
    for (text, row) in texts.iter().zip(&rows) {
        values.clear();
        bytes.clear();
        let read = read_text(text.as_bytes(), &mut values);
        let refusal = read.err().or_else(|| element_refusal(&values, half));
        let ours = if refusal.is_some() || values.is_empty() || values.len() > 16_000 {
            None
        } else {
            if half {
                put_halfvec(&mut bytes, &values);
            } else {
                put_vector(&mut bytes, &values);
            }
            Some(&bytes[4..])
        };
        let theirs: Option<&[u8]> = row.get(0);
        refused += usize::from(theirs.is_none());
        // Where the C library decides how the smallest hexadecimal floats are rounded, vecload takes none.
        if ours.is_none() && theirs.is_some() && text.contains(['x', 'X']) {
            continue;
        }
        assert_eq!(ours, theirs, "{text:?}, read as {values:?}, {refusal:?}; by the server (right)");
    }
    refused
}

/// A decimal text without exponent, made smaller far behind its last digit.
fn below(digits: &str) -> String {
    let last = digits.len() - 1;
    match digits.as_bytes()[last] {
        b'1'..=b'9' => format!("{}{}99999999999", &digits[..last], digits.as_bytes()[last] - b'0' - 1),
        _ => digits.to_string(),
    }
}

/// The exact decimal expansion of a value.
fn exactly(value: f64) -> String {
    let text = format!("{value:.1100}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_string()
}

/// The middle between a float and the next larger one, exactly.
fn middle(bits: u32) -> String {
    exactly((f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0)
}

/// Elements written by hand: what somebody somewhere has read wrongly.
#[rustfmt::skip]
const ELEMENTS: &[&str] = &[
    "0", "-0", "+0", "-0.0", "0e0", "0e999999999999", "-0e-99999999999999999999", "1e-45", "1e-46", "7e-46",
    "7.006492321624085e-46", "7.006492321624086e-46", "-1e-46", "1e-400", "1e400", "-1e400",
    "1e99999999999", "1e-99999999999", "1e2147483648", "1e-2147483649", "1e9223372036854775808",
    "1e18446744073709551616", "3.4028234663852886e38", "3.4028235e38", "3.40282356e38",
    "3.4028235677973366e38", "3.4028235677973367e38", "340282356779733661637539395458142568447",
    "340282356779733661637539395458142568448", "340282356779733661637539395458142568447.9999",
    "1.17549435e-38", "1.1754943e-38", "1.17549428e-38", "1.1754942807573643e-38", "1.1754942807573644e-38",
    "5.877471754111438e-39", "16777217", "16777216.9999999", "16777217.0000001", "16777217e0", "8388608.5",
    "8388609.5", "9007199254740993", "33554435", "1.00000005960464477", "1.000000059604644775390625",
    "1.0000000596046447753906250000000000000001", "1.000000178813934326171875",
    "1.17549435082228750796873653722224568e-38", "00000000000000000000000000000000000000001", "000.0001e3",
    "0.0000000000000000000000000000000000000000000000000000001e55", ".5", "5.", "+.5", "-.5e1", ".", "-.",
    "+", "-", "e1", ".e1", "1e", "1e+", "1e-", "1E5", "1e+5", "1e 5", "1 e5", "1.2.3", "1,", ",1", "--1",
    "+-1", "1-", "1_0", "1d5", "1f", "0x", "0x.", "0x1", "0X1P3", "0x1p", "0x1p+", "0x.8", "0x8.",
    "0x1.8p-1", "-0x1.fffffep127", "0x1.ffffffp127", "0x1.fffffefffp127", "0x1p-149", "0x1p-150",
    "0x1.000001p-150", "0x1.8p-149", "0x1.000001p0", "0x1.000003p0", "0x1.0000010000000000000000000001",
    "0x10000000000000000000000000000000000001p-100", "0x1g", "0x1p99999999999999999999",
    "0x0.000000000000000000000000000000000000000000001p180", "0x1p-99999999999999999999", "0x1e5", "0x_1",
    "0b1", "0o7", "nan", "NaN", "-nan", "nan(1)", "nan(", "nanx", "inf", "-Inf", "INFINITY", "infinit",
    "infinityx", "+inf", "1#INF", "null", "NULL", "true", "\"1\"", "'1'", "1\u{a0}", "\u{a0}1", "１", "٣",
    "−1", "1e５", "\u{feff}1", "", " ", "1\u{b}", "\u{c}1\r", "1 1", "1\u{85}", "1\u{1}",
    "0.1 \t\n\u{b}\u{c}\r", "4503599627370497.5", "2.2250738585072011e-308", "1.7976931348623157e308",
    "6.631236846766476e-316", "123456789012345678901234567890",
    "0.000000000000000000000000000000000000011754943508222875", "99999999999999999999e-58", "1e-37", "1e38",
];

/// Whole texts.
#[rustfmt::skip]
const SHAPES: &[&str] = &[
    "", " ", "[", "]", "[]", "[ ]", "[1", "1]", "1", "[[1]]", "[1][2]", "[1]]", "[1] ", " [1]", "[1],",
    "[1]x", "(1)", "[1,2", "[1,]", "[,]", "[,1]", "[1,,2]", "[ 1 , 2 ]",
    "\t\n\u{b}\u{c}\r [1\t,\n2\u{b}]\u{c}\r ", "\u{a0}[1]", "[1]\u{a0}", "[1;2]", "[1 2]", "[1\t2]",
    "[1,\t2]", "[1, 2,  3,4]", "[1.]", "[.1]",
];

/// What is the same in every run, however short.
fn adversarial() -> Vec<String> {
    let mut texts: Vec<String> = ELEMENTS.iter().map(|element| format!("[{element}]")).collect();
    // Followed by others, where the quick way is taken.
    texts.extend(ELEMENTS.iter().map(|element| format!("[{element},1,0.25,0.125,-0.0625,0.5]")));
    texts.extend(ELEMENTS.iter().map(|element| format!("[0.25, {element} ,0.125,-0.0625,0.5,1]")));
    texts.extend(SHAPES.iter().map(|shape| shape.to_string()));
    texts.push(format!("[{}]", vec!["1"; 16_000].join(",")));
    texts.push(format!("[{}]", vec!["1"; 16_001].join(",")));
    let zeros = |count| "0".repeat(count);
    for count in [20, 50, 400, 800, 5_000, 50_000] {
        texts.push(format!("[1{}e-{count}]", zeros(count)));
        texts.push(format!("[0.{}1e{}]", zeros(count), count + 1));
        texts.push(format!("[{}1.5]", zeros(count)));
        texts.push(format!("[1.5{}]", zeros(count)));
        texts.push(format!("[1.000000059604644775390625{}1,1.000000059604644775390625{0}]", zeros(count)));
        texts.push(format!("[1.00000005960464477539062{},2]", "49".repeat(count)));
        texts.push(format!("[{}]", "7".repeat(count)));
        texts.push(format!("[0.{}]", "3".repeat(count)));
    }
    // Around powers of two the neighbours are at different distances.
    for exponent in 0..=254u32 {
        for bits in [exponent << 23, (exponent << 23) + 1, ((exponent + 1) << 23) - 1] {
            let middle = if bits < 0x7f7f_ffff {
                middle(bits)
            } else {
                exactly(340282356779733661637539395458142568448.0)
            };
            texts.push(
                format!("[{middle},{middle}1]").replace(",", if middle.contains('.') { "," } else { ".0,-" }),
            );
            texts.push(format!("[{}]", below(&middle)));
        }
    }
    texts
}

/// Random texts, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        hash(self.0, 77)
    }

    /// A number below a limit.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 20) % limit
    }

    fn bits(&mut self) -> u32 {
        let bits = self.next() as u32;
        match self.below(8) {
            // Subnormal, large, near one, of an embedding's size.
            0 => bits & 0x807f_ffff,
            1 => bits & 0x80ff_ffff | 0x7f00_0000,
            2 => bits & 0x80ff_ffff | 0x3f00_0000,
            3..=5 => bits & 0x83ff_ffff | 0x3c00_0000,
            _ => bits,
        }
    }

    fn digits(&mut self, count: u64) -> String {
        (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    fn vector(&mut self) -> String {
        let separators = [",", ",", ",", ", ", " , ", ",\t", "\n,", ",\u{b}", "\u{c},", "\r,", ";", ",,"];
        let count = if self.below(3) == 0 { 2 + self.below(4) } else { 1 };
        let mut text = String::from("[");
        for index in 0..count {
            if index > 0 {
                let usual = self.below(20) > 0;
                let rare = self.below(separators.len() as u64) as usize;
                text.push_str(if usual { "," } else { separators[rare] });
            }
            text.push_str(&self.element());
        }
        // The quick way is taken where more of the text follows.
        text.push_str(if self.below(3) > 0 { ",0.5,-0.25,0.125,0.0625]" } else { "]" });
        if self.below(200) == 0 { self.damaged(text) } else { text }
    }

    fn element(&mut self) -> String {
        let value = f32::from_bits(self.bits());
        let value = if value.is_finite() { value } else { 1.5 };
        match self.below(16) {
            0 | 1 => value.to_string(),
            2 => format!("{value:e}"),
            3 => format!("{:.*e}", 8, value),
            4 => format!("{:.*e}", 16, f64::from(value)),
            5 => format!("{:.*}", 9, value),
            6 => f64::from(value).to_string(),
            7 => f64::from_bits(self.next() & 0x8fff_ffff_ffff_ffff | 0x3000_0000_0000_0000).to_string(),
            8 => format!("{value}{}", self.digits(25)),
            9 | 10 => self.halfway(),
            11 => {
                let (length, exponent) = (1 + self.below(30), self.below(120) as i64 - 70);
                format!("{}.{}e{exponent}", self.digits(1), self.digits(length))
            }
            12 => {
                let length = 1 + self.below(40);
                let digits = self.digits(length);
                let point = self.below(length) as usize;
                format!("-{}.{}", &digits[..point], &digits[point..])
            }
            13 => format!(
                "{}{:x}.{:x}p{}",
                ["0x", "-0X"][self.below(2) as usize],
                self.next() >> 30,
                self.next(),
                self.below(320) as i64 - 200
            ),
            14 => {
                let length = 1 + self.below(12);
                let alphabet = b"0123456789012345678901234567890.+-eEx pnai\t";
                (0..length)
                    .map(|_| char::from(alphabet[self.below(alphabet.len() as u64) as usize]))
                    .collect()
            }
            _ => {
                let sign = ["+", "-", "", "00", "-000"][self.below(5) as usize];
                format!(
                    "{sign}{}e{}{}",
                    value.abs(),
                    ["", "+", "-", "0", "-00"][self.below(5) as usize],
                    self.below(50)
                )
            }
        }
    }

    /// The middle of two neighbours, exactly or off by a digit at its end.
    fn halfway(&mut self) -> String {
        let bits = (self.bits() & 0x7fff_ffff).min(0x7f7f_fffe);
        let middle = middle(bits);
        let exact = match self.below(2) {
            0 => middle,
            _ => {
                // With an exponent, cut or whole.
                let value = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
                let digits = 10 + self.below(120) as usize;
                format!("{value:.digits$e}")
            }
        };
        match self.below(3) {
            0 if exact.contains('.') && !exact.contains('e') => format!("{exact}0000000000000000000001"),
            1 if !exact.contains('e') => below(&exact),
            _ => exact,
        }
    }

    /// With a byte changed, added or gone.
    fn damaged(&mut self, text: String) -> String {
        let mut text = text.into_bytes();
        let at = self.below(text.len() as u64) as usize;
        let bytes = b"0.,-+eE[] \t\nxnI\"{;_";
        let byte = bytes[self.below(bytes.len() as u64) as usize];
        match self.below(3) {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            _ => drop(text.remove(at)),
        }
        String::from_utf8(text).expect("ASCII")
    }
}
