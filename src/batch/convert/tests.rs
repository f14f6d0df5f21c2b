//! Each rule for values that PostgreSQL refuses, or that a cast of Arrow's would change.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int64Array, Int64Builder, LargeBinaryArray, ListBuilder, MapBuilder, NullArray, StringBuilder,
    StructArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field};

use super::{ColumnRejects, Converter, VARIANT, shown};
use crate::batch::reject::{EXCERPT_BYTES_MAX, Reason};
use crate::batch::text::TextForm;
use crate::postgres::types::TargetType;

/// A column converted: the fields without their length, null where there is none, and the rejects.
fn convert(array: ArrayRef, target: &TargetType) -> (Vec<Option<Vec<u8>>>, ColumnRejects) {
    convert_from(TextForm::Values, array, target)
}

fn convert_from(
    form: TextForm,
    array: ArrayRef,
    target: &TargetType,
) -> (Vec<Option<Vec<u8>>>, ColumnRejects) {
    let field = Field::new("v", array.data_type().clone(), true);
    let converter = Converter::bind(&field, form, target).expect("the types go together");
    let mut rejects = Vec::new();
    let cells = converter.convert(&array, &mut rejects).expect("no bug");
    let fields = (0..array.len()).map(|row| {
        let mut field = Vec::new();
        cells.put(row, &mut field);
        (field[..4] != [0xff; 4]).then(|| field.split_off(4))
    });
    (fields.collect(), rejects)
}

fn rows_rejected(array: ArrayRef, target: &TargetType) -> Vec<usize> {
    convert(array, target).1.into_iter().map(|(row, ..)| row).collect()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(values.iter().map(|value| value.as_bytes())))
}

fn json_of(array: ArrayRef) -> (Vec<String>, ColumnRejects) {
    let (fields, rejects) = convert(array, &TargetType::Json);
    (
        fields.into_iter().map(|field| String::from_utf8(field.unwrap_or_default()).expect("text")).collect(),
        rejects,
    )
}

#[test]
fn a_decimal_with_a_fraction_is_no_integer() {
    let decimals = Decimal128Array::from_iter_values([150, -299, 200, 7_000_000])
        .with_precision_and_scale(20, 2)
        .expect("a decimal");
    let (fields, rejects) = convert(Arc::new(decimals), &TargetType::Int2);
    let reasons: Vec<_> =
        rejects.iter().map(|(row, reason, shown)| (*row, reason.class(), &shown[..])).collect();
    assert_eq!(
        reasons,
        [(0, "value", "1.50"), (1, "value", "-2.99"), (3, "integer_out_of_range", "70000.00")]
    );
    assert_eq!(fields[2], Some(vec![0, 2]));
}

#[test]
fn text_beyond_bigint_is_out_of_range() {
    let texts = texts(&["9223372036854775808", " -9223372036854775808 ", "1.5", "x"]);
    let (_, rejects) = convert(texts, &TargetType::Int8);
    let classes: Vec<_> = rejects.iter().map(|(row, reason, _)| (*row, reason.class())).collect();
    assert_eq!(classes, [(0, "integer_out_of_range"), (2, "value"), (3, "value")]);
}

#[test]
fn no_element_of_an_array_vanishes() {
    let mut lists = ListBuilder::new(UInt64Builder::new());
    lists.append_value([Some(1), None]);
    lists.append_value([Some(u64::MAX), Some(1)]);
    lists.append_null();
    let (fields, rejects) = convert(Arc::new(lists.finish()), &TargetType::Int8Array);
    assert_eq!(rejects, [(1, Reason::IntegerRange("bigint".into()), "18446744073709551615".to_string())]);
    assert!(fields[0].is_some() && fields[2].is_none());

    let mut lists = ListBuilder::new(BinaryBuilder::new());
    lists.append_value([Some(b"good"), None]);
    lists.append_value([Some(b"\xff\xfe\xff\xff")]);
    let (_, rejects) = convert(Arc::new(lists.finish()), &TargetType::TextArray);
    assert_eq!(
        rejects.iter().map(|reject| (reject.0, &reject.1)).collect::<Vec<_>>(),
        [(1, &Reason::InvalidUtf8)]
    );

    let mut lists = ListBuilder::new(arrow::array::TimestampSecondBuilder::new());
    lists.append_value([Some(0), None]);
    lists.append_value([Some(i64::MAX)]);
    assert_eq!(rows_rejected(Arc::new(lists.finish()), &TargetType::TextArray), [1]);
}

#[test]
fn json_has_no_nan_no_infinity_and_no_date_outside_the_calendar() {
    let number = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let (out, rejects) = json_of(number(vec![0.1, f64::NAN, 1e300]));
    assert_eq!((&out[0][..], &out[2][..]), ("0.1", "1e300"));
    assert!(matches!(&rejects[..], [(1, Reason::Json(why), _)] if why.contains("NaN")));

    let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let single: ArrayRef = Arc::new(Float32Array::from(vec![0.1, f32::INFINITY, 1.0]));
    let times: ArrayRef = Arc::new(
        TimestampMillisecondArray::from(vec![Some(0), None, Some(i64::MAX)]).with_timezone("+00:00"),
    );
    let structs = StructArray::from(vec![(field("a", &single), single), (field("t", &times), times)]);
    let (out, rejects) = json_of(Arc::new(structs));
    assert_eq!(out[0], r#"{"a":0.1,"t":"1970-01-01T00:00:00Z"}"#);
    assert_eq!(
        rejects.iter().map(|reject| (reject.0, reject.1.class())).collect::<Vec<_>>(),
        [(1, "json"), (2, "json")]
    );
}

#[test]
fn keys_of_maps_become_text() {
    let mut maps = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
    maps.keys().append_value(7);
    maps.values().append_value("seven");
    maps.append(true).expect("a map");
    maps.append(false).expect("a null");
    let (out, rejects) = json_of(Arc::new(maps.finish()));
    assert_eq!((&out[0][..], rejects.len()), (r#"{"7":"seven"}"#, 0));

    let bytes = DataType::Struct(
        vec![Field::new("key", DataType::LargeBinary, false), Field::new("value", DataType::Int64, true)]
            .into(),
    );
    let map = DataType::Map(Arc::new(Field::new("entries", bytes, false)), false);
    assert!(Converter::bind(&Field::new("m", map, true), TextForm::Bytes, &TargetType::Jsonb).is_err());
}

#[test]
fn text_in_structures_is_checked_row_by_row() {
    let texts = || BinaryArray::from_vec(vec![b"good \"\xc3\xa4\"", b"\xff", b"\x00", b"last"]);
    let bytes = LargeBinaryArray::from_vec(vec![b"\xff\x01", b"", b"", b""]);
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let structs = StructArray::from(vec![
        (field("t", DataType::Binary), Arc::new(texts()) as ArrayRef),
        (field("b", DataType::LargeBinary), Arc::new(bytes)),
    ]);
    let (out, rejects) = json_of(Arc::new(structs));
    assert_eq!((&out[0][..], &out[3][..]), (r#"{"t":"good \"ä\"","b":"ff01"}"#, r#"{"t":"last","b":""}"#));
    let classes: Vec<_> = rejects.iter().map(|(row, reason, _)| (*row, reason.class())).collect();
    assert_eq!(classes, [(1, "invalid_utf8"), (2, "json")]);

    let mut maps = MapBuilder::new(None, BinaryBuilder::new(), BinaryBuilder::new());
    for (key, value) in [(&b"k"[..], &b"v"[..]), (b"\xff", b"v"), (b"k", b"\xff")] {
        maps.keys().append_value(key);
        maps.values().append_value(value);
        maps.append(true).expect("a map");
    }
    let (out, rejects) = json_of(Arc::new(maps.finish()));
    assert_eq!(out[0], r#"{"k":"v"}"#);
    assert_eq!(rejects.iter().map(|reject| reject.0).collect::<Vec<_>>(), [1, 2]);
    assert!(rejects.iter().all(|reject| reject.1 == Reason::InvalidUtf8));
}

#[test]
fn excerpts_show_texts_within_lists() {
    let mut lists = ListBuilder::new(BinaryBuilder::new());
    lists.append_value([Some(b"other")]);
    lists.append_value([Some(&b"a text"[..]), Some(b"\xff"), None]);
    let lists: ArrayRef = Arc::new(lists.finish());
    assert_eq!(shown(&lists, 1), "[a text, \u{fffd}, ]");
}

#[test]
fn finite_numbers_never_become_infinite_or_zero_floats() {
    let numbers = ["1e400", "1e-400", "0e-400", "-0", "Infinity", "NaN", " 1e38 ", "5e-324"];
    assert_eq!(rows_rejected(texts(&numbers), &TargetType::Float8), [0, 1]);
    assert_eq!(rows_rejected(texts(&numbers), &TargetType::Float4), [0, 1, 7]);
    let wide = Float64Array::from(vec![1e-50, -1e39, 1e-45, 0.0, f64::INFINITY, f64::NAN, 1e300]);
    assert_eq!(rows_rejected(Arc::new(wide), &TargetType::Float4), [0, 1, 6]);
    let decimals = Decimal128Array::from_iter_values([123_456_789_012_345_678_901_234_567i128])
        .with_precision_and_scale(38, 20)
        .expect("a decimal");
    let (fields, _) = convert(Arc::new(decimals), &TargetType::Float8);
    assert_eq!(fields[0], Some(1_234_567.890_123_456_8f64.to_be_bytes().to_vec()));
}

#[test]
fn numerics_are_refused_after_the_servers_rounding() {
    let target = TargetType::Numeric(Some((5, 2)));
    assert_eq!(
        rows_rejected(texts(&["999.994", "999.995", "NaN", "inf", "1e3", "x"]), &target),
        [1, 3, 4, 5]
    );
    let floats = Float64Array::from(vec![999.994, 999.995, f64::NAN, f64::INFINITY]);
    assert_eq!(rows_rejected(Arc::new(floats), &target), [1, 3]);
    assert!(rows_rejected(texts(&["-Infinity"]), &TargetType::Numeric(None)).is_empty());
}

#[test]
fn nanoseconds_are_rounded_down_before_and_after_1970() {
    let epoch = 946_684_800_000_000i64;
    let expected: Vec<_> =
        [-1, 0, -2].map(|micros: i64| Some((micros - epoch).to_be_bytes().to_vec())).into();
    let column = TimestampNanosecondArray::from(vec![-1, 999, -1_001]);
    assert_eq!(convert(Arc::new(column), &TargetType::Timestamptz).0, expected);
    let written =
        ["1969-12-31 23:59:59.999999999", "1970-01-01T00:00:00.000000999Z", "1969-12-31 23:59:59.999998999"];
    assert_eq!(convert(texts(&written), &TargetType::Timestamptz).0, expected);
    let dates = convert(Arc::new(TimestampNanosecondArray::from(vec![-1])), &TargetType::Date).0;
    assert_eq!(dates[0], Some((-10_958i32).to_be_bytes().to_vec()));
}

#[test]
fn times_in_text_are_read_as_the_server_reads_them() {
    let seconds = |text: &str, target: &TargetType| {
        let (fields, _) = convert(texts(&[text]), target);
        let bytes: [u8; 8] = fields[0].as_deref()?.try_into().ok()?;
        Some(i64::from_be_bytes(bytes) / 1_000_000 + 946_684_800)
    };
    for (text, target, expected) in [
        (" 1970-01-02 00:00:01\n", TargetType::Timestamptz, Some(86_401)),
        ("1970-01-01T00:02", TargetType::Timestamptz, Some(120)),
        ("1970-01-01T02:02+02", TargetType::Timestamptz, Some(120)),
        ("1970-01-01 02:00:00 +02:00", TargetType::Timestamptz, Some(0)),
        ("1970-01-01 02:00:00+02:00", TargetType::Timestamp, Some(7_200)),
        ("1970-01-01 02:00:00Z", TargetType::Timestamp, Some(7_200)),
        ("1970-01-02", TargetType::Timestamp, Some(86_400)),
        ("1970-01-01 02:00:00+16:00", TargetType::Timestamptz, None),
        ("0000-01-01 00:00:00", TargetType::Timestamptz, None),
        ("1970-01-01 é", TargetType::Timestamptz, None),
        ("1970-01-01T00:0é", TargetType::Timestamptz, None),
        ("noon", TargetType::Timestamptz, None),
        ("", TargetType::Timestamptz, None),
    ] {
        assert_eq!(seconds(text, &target), expected, "{text} into {target}");
    }
    let (days, _) =
        convert(texts(&["1970-01-01 23:00:00-08:00", "-0001-01-01", "0000-01-01"]), &TargetType::Date);
    assert_eq!(days, [Some((-10_957i32).to_be_bytes().to_vec()), None, None]);
}

#[test]
fn milliseconds_reach_to_the_ends_of_the_servers_calendar() {
    let millis = [9_224_318_015_999_999, 9_224_318_016_000_000, -210_866_803_200_000, -210_866_803_200_001];
    let column = TimestampMillisecondArray::from(millis.to_vec()).with_timezone("UTC");
    let (_, rejects) = convert(Arc::new(column), &TargetType::Timestamptz);
    assert_eq!(rejects.iter().map(|reject| reject.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(rejects[0].2, "9224318016000000 ms since 1970-01-01");
    let days: ArrayRef = Arc::new(Date32Array::from(vec![2_145_042_905, i32::MAX]));
    let (_, rejects) = convert(days, &TargetType::Date);
    assert_eq!((rejects[0].0, &rejects[0].2[..], rejects.len()), (1, "2147483647 days since 1970-01-01", 1));
}

#[test]
fn times_outside_arrows_calendar_are_rejects_as_text() {
    let times = TimestampMicrosecondArray::from(vec![Some(0), Some(i64::MIN), None]).with_timezone("+00:00");
    let (fields, rejects) = convert(Arc::new(times), &TargetType::Text);
    assert_eq!(fields[0].as_deref(), Some(&b"1970-01-01T00:00:00Z"[..]));
    assert_eq!(rejects.iter().map(|reject| reject.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_variant_is_refused_by_name() {
    let field =
        Field::new("m", DataType::Struct(vec![Field::new("value", DataType::Binary, true)].into()), true)
            .with_metadata([("ARROW:extension:name".to_string(), VARIANT.to_string())]);
    let refused =
        Converter::bind(&field, TextForm::Bytes, &TargetType::Jsonb).map_err(|error| error.to_string());
    assert!(refused.is_err_and(|text| text.contains("VARIANT")));
}

#[test]
fn a_column_without_a_type_is_all_null() {
    for target in [TargetType::Text, TargetType::Int8, TargetType::Jsonb, TargetType::Vector(Some(3))] {
        let (fields, rejects) = convert(Arc::new(NullArray::new(2)), &target);
        assert_eq!((fields, rejects.len()), (vec![None, None], 0));
    }
}

#[test]
fn excerpts_of_lists_are_bounded() {
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value((0..1000).map(Some));
    let lists: ArrayRef = Arc::new(lists.finish());
    assert!(shown(&lists, 0).len() <= EXCERPT_BYTES_MAX);
}

#[test]
fn integers_stay_as_they_are() {
    let (fields, rejects) = convert(Arc::new(Int64Array::from(vec![Some(-1), None])), &TargetType::Int8);
    assert_eq!((fields, rejects.len()), (vec![Some(vec![0xff; 8]), None], 0));
}

#[test]
fn text_means_what_its_source_means_by_it() {
    let bytea = |form| convert_from(form, texts(&["\\x00"]), &TargetType::Bytea).0.remove(0);
    assert_eq!(bytea(TextForm::Values), Some(b"\\x00".to_vec()));
    assert_eq!(bytea(TextForm::Bytes), Some(b"\\x00".to_vec()));
    assert_eq!((bytea(TextForm::Input), bytea(TextForm::Json)), (Some(vec![0]), Some(vec![0])));

    let list = |form, text: &str, target: &TargetType| convert_from(form, texts(&[text]), target);
    let written = list(TextForm::Input, "{\"a\",1.10,NULL,true}", &TargetType::TextArray).0;
    let json = list(TextForm::Json, "[\"a\", 1.10, null, true]", &TargetType::TextArray).0;
    assert_eq!(json, written);
    assert_eq!(list(TextForm::Json, "{\"a\",1.10,NULL,true}", &TargetType::TextArray).0, written);
    assert_eq!(
        list(TextForm::Json, "[1, \"-2\", null]", &TargetType::Int8Array).0,
        list(TextForm::Input, "{1,-2,NULL}", &TargetType::Int8Array).0
    );
    assert_eq!(list(TextForm::Input, "[1]", &TargetType::Int8Array).1.len(), 1);
    assert_eq!(list(TextForm::Json, "[\"\\u0000\"]", &TargetType::TextArray).1[0].1, Reason::NulByte);
    assert_eq!(list(TextForm::Json, "[1e3]", &TargetType::Int8Array).1[0].1.class(), "value");

    let vectors = ["[1,2]", "{1,2}", "1;2", "[1, 2]"];
    let (fields, rejects) = convert_from(TextForm::Json, texts(&vectors), &TargetType::Vector(Some(2)));
    assert!(rejects.is_empty() && fields.iter().all(|field| *field == fields[0]));
}

#[test]
fn input_is_rejected_by_row_with_its_reason() {
    let reason = |target: &TargetType, text: &[u8]| {
        let column: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![None, Some(text)]));
        let (fields, mut rejects) = convert_from(TextForm::Input, column, target);
        assert_eq!((&fields[0], rejects.len(), rejects[0].0), (&None, 1, 1));
        let (_, reason, shown) = rejects.remove(0);
        assert!(!shown.is_empty());
        (reason.class(), reason.to_string())
    };
    let (class, shown) = reason(&TargetType::Timestamptz, b"31/01/2024");
    assert!(class == "value" && shown.contains("write 2024-01-31 12:30:00"), "{shown}");
    for (target, text, class) in [
        (TargetType::Int2, &b"32768"[..], "integer_out_of_range"),
        (TargetType::Int4, b"0x80000000", "integer_out_of_range"),
        (TargetType::Int8Array, b"{9223372036854775808}", "integer_out_of_range"),
        (TargetType::Int8, b"1.0", "value"),
        (TargetType::Float4, b"1e-50", "value"),
        (TargetType::Float8, b"-nan", "value"),
        (TargetType::Numeric(Some((3, 0))), b"1000", "value"),
        (TargetType::Bool, b"maybe", "value"),
        (TargetType::Uuid, b"1234", "value"),
        (TargetType::Date, b"2023-02-29", "value"),
        (TargetType::Bytea, b"\xff", "invalid_utf8"),
        (TargetType::Bytea, b"a\0", "nul_byte"),
        (TargetType::TextArray, b"{\xff}", "invalid_utf8"),
        (TargetType::TextArray, b"{{a}}", "value"),
        (TargetType::Vector(None), b"[]", "value"),
        (TargetType::Vector(Some(2)), b"[1]", "dimension"),
    ] {
        assert_eq!(reason(&target, text).0, class, "{} into {target}", text.escape_ascii());
    }
}
