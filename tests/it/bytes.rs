//! The encoder against the server: every scalar type, with the ends of its range.

use std::sync::Arc;

use arrow::array::{
    Date32Array, Decimal128Array, FixedSizeBinaryArray, TimestampMicrosecondArray, TimestampMillisecondArray,
};
use proptest::collection::vec;
use proptest::prelude::any;

use super::oracle::{Column, Oracle, quoted, some};

#[test]
fn booleans_and_integers_are_the_servers() {
    let oracle = Oracle::new();
    oracle.agrees("boolean", Column::of(some(any::<bool>(), []), bool::to_string));
    let number = |value: &i64| format!("numeric '{value}'");
    let ends = [
        0,
        -1,
        32_767,
        32_768,
        -32_768,
        -32_769,
        i64::MAX,
        i64::MIN,
        2_147_483_647,
        2_147_483_648,
        -2_147_483_649,
    ];
    for type_sql in
        ["smallint", "integer", "bigint", "numeric", "real", "double precision", "text", "varchar(20)"]
    {
        oracle.agrees(type_sql, Column::of(some(any::<i64>(), ends), number));
    }
    let unsigned = [0, 32_767, 32_768, 2_147_483_648, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    for type_sql in ["smallint", "integer", "bigint", "numeric"] {
        oracle
            .agrees(type_sql, Column::of(some(any::<u64>(), unsigned), |value| format!("numeric '{value}'")));
    }
    oracle.agrees("smallint", Column::of(some(any::<i8>(), [i8::MIN, i8::MAX]), i8::to_string));
    oracle.agrees("smallint", Column::of(some(any::<u8>(), [u8::MAX]), u8::to_string));
    oracle.agrees("integer", Column::of(some(any::<i16>(), [i16::MIN, i16::MAX]), i16::to_string));
    oracle.agrees("integer", Column::of(some(any::<u32>(), [u32::MAX]), u32::to_string));
    oracle.agrees("bigint", Column::of(some(any::<u32>(), [u32::MAX]), u32::to_string));
    let texts =
        ["7", "-32768", "32768", " 12 ", "", "x", "1.5", "1e3", "99999999999999999999"].map(String::from);
    for type_sql in ["smallint", "bigint"] {
        oracle.agrees_where_it_accepts(
            type_sql,
            Column::of(some("-?[0-9]{1,20}", texts.clone()), |text| quoted(text)),
        );
    }
    let flags = ["t", "f", "true", "FALSE", "yes", "off", "1", "0", "", "maybe", "2"].map(String::from);
    oracle.agrees_where_it_accepts("boolean", Column::of(some("[a-z]{1,3}", flags), |text| quoted(text)));
}

#[test]
fn floats_are_the_servers_with_nan_and_infinity() {
    let oracle = Oracle::new();
    let single =
        [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 0.1];
    let all = any::<u32>().prop_map_to_f32();
    oracle.agrees("real", Column::of(some(all, single), |value| format!("real '{value}'")));
    let double =
        [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1];
    let all = any::<f64>();
    oracle.agrees("double precision", Column::of(some(all, double), |value| format!("float8 '{value}'")));
    // Rounded once, and refused beyond. (What is too small for `real` becomes 0, where the server refuses it.)
    let ends = [
        f64::from(f32::MAX),
        3.402_823_567_797_336e38,
        3.402_823_567_797_337e38,
        1e39,
        -1e39,
        0.1,
        f64::NAN,
        1e300,
    ];
    let rounded = [16_777_217.0, 1.000_000_059_604_644_8, 1.000_000_178_813_934_3];
    let some = some(-1e30f64..1e30, ends.into_iter().chain(rounded));
    oracle.agrees("real", Column::of(some, |value| format!("float8 '{value}'")));
}

/// Bit patterns as floats.
trait ToFloat {
    fn prop_map_to_f32(self) -> impl proptest::strategy::Strategy<Value = f32>;
}

impl<S: proptest::strategy::Strategy<Value = u32>> ToFloat for S {
    fn prop_map_to_f32(self) -> impl proptest::strategy::Strategy<Value = f32> {
        self.prop_map(|bits| f32::from_bits(bits & 0xffbf_ffff))
    }
}

#[test]
fn numerics_are_the_servers_to_the_last_digit() {
    let oracle = Oracle::new();
    for (scale, limits) in
        [(0, "numeric"), (10, "numeric"), (3, "numeric(10,2)"), (4, "numeric(38,10)"), (1, "numeric(5,-2)")]
    {
        let most = 10i128.pow(38) - 1;
        let edges = [
            0,
            1,
            -1,
            5,
            99,
            9_999,
            10_000,
            99_994,
            99_995,
            99_999_994,
            99_999_995,
            99_999_999_995,
            1_000_000_000_000,
            most,
            -most,
        ];
        let values = some(-(10i128.pow(15))..10i128.pow(15), edges);
        let expressions =
            values.iter().map(|value| value.map(|value| format!("{value} * 1e-{scale}::numeric"))).collect();
        let array =
            Decimal128Array::from_iter(values).with_precision_and_scale(38, scale).expect("38 digits");
        let exact = |text: Option<String>| text.map(|text| text.replace("* 1e-0::numeric", "* 1::numeric"));
        let expressions: Vec<_> = Vec::into_iter(expressions).map(exact).collect();
        oracle.agrees(limits, Column { values: Arc::new(array), expressions });
    }
    let texts = [
        "0",
        "-0",
        "0.00",
        "12345.678",
        "-0.0001",
        "1e3",
        "1.5E-3",
        "NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "+7",
        ".5",
        "5.",
        " 42 ",
        "1e131071",
        "1e131072",
        "1e-16383",
        "1e-16384",
        "9.99e130",
        "",
        "x",
        "1_000",
        "0x1F",
        "1e",
        "--1",
        "+-1",
        "NaN1",
        "1e400000",
    ];
    let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
    for limits in ["numeric", "numeric(6,2)", "numeric(3,0)", "numeric(2,-3)", "numeric(3,5)"] {
        let edges = [
            "999.994", "999.995", "999.5", "999.4", "9999.995", "9999.99", "99499", "99500", "0.00999",
            "0.00995", "1e2", "1e6",
        ];
        let edges = texts.iter().cloned().chain(edges.map(String::from));
        let column = Column::of(some("-?[0-9]{1,9}(\\.[0-9]{1,9})?(e-?[0-9])?", edges), |text| quoted(text));
        oracle.agrees_where_it_accepts(limits, column);
    }
    let floats =
        [0.1, -2.5, 1e22, 1.5e300, 5e-324, 999.995, 999.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for limits in ["numeric", "numeric(5,2)", "numeric(3,0)", "numeric(2,0)"] {
        let column = Column::of(some(-1e9f64..1e9, floats), |value: &f64| quoted(&value.to_string()));
        oracle.agrees(limits, column);
    }
}

#[test]
fn texts_are_the_servers_with_limits_and_labels() {
    let oracle = Oracle::new().after(
        "create type mood as enum ('calm', 'glad', 'it''s'); create domain short as varchar(4);
        create domain positive as integer; create domain url as text",
    );
    let edges =
        ["", " ", "üñí", "a\tb\n\\N", "'; --", "🦀🦀🦀🦀", "abcd", "abcde", "abcd  ", "abc  d", "ab\0c"]
            .map(String::from);
    for type_sql in ["text", "varchar", "varchar(4)", "short", "url"] {
        let column = Column::of(some("\\PC{0,8}", edges.clone()), |text| {
            match text.contains('\0') {
                // The server's text has no way to write it.
                true => "1 / 0".into(),
                false => quoted(text),
            }
        });
        oracle.agrees(type_sql, column);
    }
    let labels = ["calm", "glad", "it's", "Calm", "", "sad"].map(String::from);
    oracle.agrees("mood", Column::of(some("(calm|glad|mad)", labels), |text| quoted(text)));
    oracle.agrees(
        "positive",
        Column::of(some(any::<i64>(), [1, -1, i64::MAX]), |value| format!("{value}::numeric")),
    );
    let bytes = some(vec(any::<u8>(), 0..20), [vec![], vec![0], vec![255, 0, 1]]);
    let hex = |value: &Vec<u8>| {
        format!("'\\x{}'::bytea", value.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    oracle.agrees("bytea", Column::of(bytes, hex));
}

#[test]
fn uuids_are_the_servers() {
    let oracle = Oracle::new();
    let ids = some(any::<[u8; 16]>(), [[0; 16], [255; 16]]);
    let expressions =
        ids.iter().map(|id| id.map(|id| quoted(&uuid::Uuid::from_bytes(id).to_string()))).collect();
    let values =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids.into_iter(), 16).expect("16 bytes each");
    oracle.agrees("uuid", Column { values: Arc::new(values), expressions });
    let texts = [
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
        "",
        "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ];
    let column = Column::of(
        some("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", texts.map(String::from)),
        |text| quoted(text),
    );
    oracle.agrees_where_it_accepts("uuid", column);
}

#[test]
fn dates_and_times_are_the_servers_to_the_ends_of_the_calendar() {
    let oracle = Oracle::new();
    // Days since 1970 of the first and the last date that the server knows, and their neighbours.
    let (first, last) = (-2_440_588, 2_145_042_905);
    let days = some(-1_000_000..1_000_000, [0, -1, first, first - 1, last, last + 1, i32::MIN, i32::MAX]);
    let sql = |day: i32| format!("(date '1970-01-01' + {day})");
    let expressions = days.iter().map(|day| day.map(sql)).collect();
    oracle.agrees("date", Column { values: Arc::new(Date32Array::from(days)), expressions });

    let micros = some(
        -1_000_000_000_000_000_000i64..1_000_000_000_000_000_000,
        [0, -1, 1, 999_999, -210_866_803_200_000_000, -210_866_803_200_000_001, i64::MAX, i64::MIN],
    );
    for (type_sql, zone) in [
        ("timestamp", None),
        ("timestamptz", Some("UTC")),
        ("timestamptz", None),
        ("timestamp", Some("+02:00")),
    ] {
        let sql = |micros: i64| {
            format!("(timestamptz '1970-01-01 00:00Z' + interval '{micros} microseconds') at time zone 'UTC'")
        };
        let sql = |micros: i64| match type_sql {
            "timestamp" => sql(micros),
            _ => format!("({}) at time zone 'UTC'", sql(micros)),
        };
        let expressions = micros.iter().map(|value| value.map(sql)).collect();
        let array = TimestampMicrosecondArray::from(micros.clone()).with_timezone_opt(zone);
        oracle.agrees(type_sql, Column { values: Arc::new(array), expressions });
    }
    // Milliseconds reach further than microseconds can.
    let far = [
        9_223_372_036_854_775i64,
        9_224_318_015_999_999,
        9_224_318_016_000_000,
        -210_866_803_200_000,
        -210_866_803_200_001,
    ];
    let millis = some(-1_000_000_000_000_000i64..1_000_000_000_000_000, far);
    let sql = |value: i64| {
        let (days, rest) = (value.div_euclid(86_400_000), value.rem_euclid(86_400_000));
        let time = format!(
            "timestamp '1970-01-01' + make_interval(days => {days}) + '{rest} milliseconds'::interval"
        );
        format!("({time}) at time zone 'UTC'")
    };
    let expressions = millis.iter().map(|value| value.map(sql)).collect();
    let array = TimestampMillisecondArray::from(millis).with_timezone("UTC");
    oracle.agrees_where_it_accepts("timestamptz", Column { values: Arc::new(array), expressions });

    let texts = [
        "2024-02-29T12:00:00Z",
        "2024-02-29 12:00:00.123456+05:30",
        "2024-02-30 00:00:00",
        "1999-12-31",
        "2024-01-01 24:00:00",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
        "noon",
        "",
        "2024-06-01 10:00:00 Europe/Berlin",
    ];
    for type_sql in ["timestamptz", "timestamp", "date"] {
        let column = Column::of(
            some(
                "20[0-2][0-9]-(0[1-9]|1[0-2])-[0-3][0-9]( [0-2][0-9]:[0-5][0-9]:[0-5][0-9])?",
                texts.map(String::from),
            ),
            |text| quoted(text),
        );
        match type_sql {
            // The column's time of day is dropped by vecload, the zone by the server: only dates are compared.
            "date" => drop(column),
            _ => oracle.agrees_where_it_accepts(type_sql, column),
        }
    }
}
