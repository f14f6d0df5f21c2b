//! Page headers, read ahead of the decoder: what a column chunk's pages will need in memory, and whether
//! what they claim can be true.
//!
//! A header is a Thrift struct in the compact protocol (`PageHeader` in `parquet.thrift` of the Parquet
//! format). Only sizes and counts are taken; everything else is skipped.

use std::ops::Range;

use super::file::PositionedFile;
use super::thrift::{Kind, Thrift};

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
            // Each value takes a byte at least; the decoder makes room for all that are announced.
            if header.values > header.uncompressed_bytes {
                return Err(format!(
                    "the dictionary page at offset {offset} claims {} values in {} bytes",
                    header.values, header.uncompressed_bytes
                ));
            }
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
    let mut thrift = Thrift::new(bytes);
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
    header.header_bytes = thrift.position();
    (0..=3).contains(&header.page_type).then_some(header)
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
