//! Page headers, read ahead of the decoder: what a column chunk's pages will need in memory, and whether
//! what they claim can be true.
//!
//! A header is a Thrift struct in the compact protocol (`PageHeader` in `parquet.thrift` of the Parquet
//! format). Only sizes and counts are taken; everything else is skipped. The reader is bounded by its
//! slice, so no length in a damaged header is believed.

use std::ops::Range;

use super::file::PositionedFile;

/// Bytes fetched for a header at first; one with long statistics is fetched again, up to the maximum.
const HEADER_BYTES_FIRST: usize = 256;
const HEADER_BYTES_MAX: usize = 16 << 20;

/// What reading the pages of a column chunk takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PageNeeds {
    /// Largest page as stored.
    pub compressed_bytes: u64,
    /// Largest page decompressed.
    pub uncompressed_bytes: u64,
    /// The dictionary, which stays in memory for the whole chunk.
    pub dictionary_bytes: u64,
    /// Values of the dictionary.
    pub dictionary_values: u64,
    /// Most values (nulls included) in a page; nested columns carry two levels of two bytes for each.
    pub values: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct PageHeader {
    page_type: i32,
    uncompressed_bytes: u64,
    compressed_bytes: u64,
    values: u64,
    header_bytes: usize,
}

/// Walks the headers of a column chunk and checks each against the chunk.
pub(super) fn survey(
    file: &PositionedFile,
    chunk: Range<u64>,
    chunk_values: u64,
    chunk_uncompressed_bytes: u64,
) -> Result<PageNeeds, String> {
    const DICTIONARY_PAGE: i32 = 2;
    let mut needs = PageNeeds::default();
    let mut offset = chunk.start;
    let mut values_seen = 0;
    while offset < chunk.end && values_seen < chunk_values {
        let header = read_header(file, offset, chunk.end)?;
        let body = offset + header.header_bytes as u64;
        let left = chunk.end.saturating_sub(body);
        if header.compressed_bytes > left {
            return Err(format!(
                "the page at offset {offset} claims {} bytes, its column chunk has {left} left",
                header.compressed_bytes
            ));
        }
        // Headers count in the chunk's total, so no page can have more.
        if header.uncompressed_bytes > chunk_uncompressed_bytes {
            return Err(format!(
                "the page at offset {offset} claims {} bytes decompressed, its whole column chunk has {}",
                header.uncompressed_bytes, chunk_uncompressed_bytes
            ));
        }
        if header.page_type == DICTIONARY_PAGE {
            needs.dictionary_bytes = needs.dictionary_bytes.max(header.uncompressed_bytes);
            needs.dictionary_values = needs.dictionary_values.max(header.values);
        } else {
            values_seen += header.values;
            if values_seen > chunk_values {
                return Err(format!(
                    "the pages up to offset {offset} claim {values_seen} values, their column chunk has {chunk_values}"
                ));
            }
            needs.values = needs.values.max(header.values);
        }
        needs.compressed_bytes = needs.compressed_bytes.max(header.compressed_bytes);
        needs.uncompressed_bytes = needs.uncompressed_bytes.max(header.uncompressed_bytes);
        offset = body + header.compressed_bytes;
    }
    if values_seen < chunk_values {
        return Err(format!("its pages hold {values_seen} values, the footer says {chunk_values}"));
    }
    Ok(needs)
}

fn read_header(file: &PositionedFile, offset: u64, end: u64) -> Result<PageHeader, String> {
    let mut length = HEADER_BYTES_FIRST;
    loop {
        let wanted = length.min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let bytes =
            file.read_up_to(wanted, offset).map_err(|error| format!("read at offset {offset}: {error}"))?;
        match parse_header(&bytes) {
            Some(header) => return Ok(header),
            None if wanted < length || length >= HEADER_BYTES_MAX || bytes.len() < wanted => {
                return Err(format!("the page header at offset {offset} is damaged"));
            }
            None => length *= 8,
        }
    }
}

fn parse_header(bytes: &[u8]) -> Option<PageHeader> {
    let mut thrift = Thrift { bytes, at: 0 };
    let mut header = PageHeader { page_type: -1, ..PageHeader::default() };
    let (mut uncompressed, mut compressed) = (None, None);
    let mut field = 0;
    while let Some(kind) = thrift.next_field(&mut field)? {
        match (field, kind) {
            (1, Kind::Integer) => header.page_type = i32::try_from(thrift.integer()?).ok()?,
            (2, Kind::Integer) => uncompressed = Some(u64::try_from(thrift.integer()?).ok()?),
            (3, Kind::Integer) => compressed = Some(u64::try_from(thrift.integer()?).ok()?),
            // Headers of data pages, dictionary pages and data pages of version 2 all count values first.
            (5 | 7 | 8, Kind::Struct) => {
                let mut inner = 0;
                while let Some(kind) = thrift.next_field(&mut inner)? {
                    match (inner, kind) {
                        (1, Kind::Integer) => header.values = u64::try_from(thrift.integer()?).ok()?,
                        _ => thrift.skip(kind, 0)?,
                    }
                }
            }
            _ => thrift.skip(kind, 0)?,
        }
    }
    header.uncompressed_bytes = uncompressed?;
    header.compressed_bytes = compressed?;
    header.header_bytes = thrift.at;
    (0..=3).contains(&header.page_type).then_some(header)
}

/// Kinds of the compact protocol, as far as skipping tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    const DEPTH_MAX: usize = 16;

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// The next field's kind, `Some(None)` at the struct's end; `field` becomes its number.
    #[expect(
        clippy::option_option,
        reason = "the outer one is 'the bytes ended', the inner one 'the struct did'"
    )]
    fn next_field(&mut self, field: &mut i64) -> Option<Option<Kind>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *field = match byte >> 4 {
            0 => self.integer()?,
            delta => field.checked_add(i64::from(delta))?,
        };
        Some(Some(Self::kind(byte & 0x0f)?))
    }

    fn kind(code: u8) -> Option<Kind> {
        Some(match code {
            1 | 2 => Kind::Bool,
            3 => Kind::Byte,
            4..=6 => Kind::Integer,
            7 => Kind::Double,
            8 => Kind::Binary,
            9 | 10 => Kind::List,
            11 => Kind::Map,
            12 => Kind::Struct,
            _ => return None,
        })
    }

    fn skip(&mut self, kind: Kind, depth: usize) -> Option<()> {
        if depth > Self::DEPTH_MAX {
            return None;
        }
        match kind {
            Kind::Bool => {}
            Kind::Byte => self.advance(1)?,
            Kind::Integer => self.varint().map(|_| ())?,
            Kind::Double => self.advance(8)?,
            Kind::Binary => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.advance(length)?;
            }
            Kind::List => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    short => u64::from(short),
                };
                let item = Self::kind(head & 0x0f)?;
                for _ in 0..count {
                    self.skip_item(item, depth)?;
                }
            }
            Kind::Map => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.skip_item(Self::kind(kinds >> 4)?, depth)?;
                    self.skip_item(Self::kind(kinds & 0x0f)?, depth)?;
                }
            }
            Kind::Struct => {
                let mut field = 0;
                while let Some(kind) = self.next_field(&mut field)? {
                    self.skip(kind, depth + 1)?;
                }
            }
        }
        Some(())
    }

    /// In a collection a boolean takes a byte; as a field it is in the field's head.
    fn skip_item(&mut self, kind: Kind, depth: usize) -> Option<()> {
        if kind == Kind::Bool { self.advance(1) } else { self.skip(kind, depth + 1) }
    }

    fn advance(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_gives_its_sizes_and_its_own_length() {
        // type 0, uncompressed 100, compressed 50, data_page_header { num_values 7, encoding 0 }
        let bytes = [0x15, 0, 0x15, 200, 1, 0x15, 100, 0x2c, 0x15, 14, 0x15, 0, 0, 0, 0xaa];
        let header = parse_header(&bytes).expect("a whole header");
        assert_eq!((header.uncompressed_bytes, header.compressed_bytes), (100, 50));
        assert_eq!((header.values, header.header_bytes), (7, 14));
        for cut in 0..14 {
            assert_eq!(parse_header(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_run_away(bytes: Vec<u8>) {
            parse_header(&bytes);
        }
    }
}
