//! The dataset as CSV: RFC 4180 with lines that end in a line feed, floats in their shortest form.

use std::io::Write;

use super::Control;
use super::ordered::in_order;
use super::output::{Compression, Sink};
use crate::error::{Error, Result};
use crate::source::synthetic::{Row, Synthetic};

const HEADER: &str = "channel_id,user_id,content,metadata,embedding\n";

/// Text of a block, roughly: large enough to compress well, small enough to stay in the cache's reach.
const BLOCK_BYTES: usize = 2 << 20;

/// What a row takes, roughly: an element of the embedding, and all the rest.
const ELEMENT_BYTES: usize = 13;
const REST_BYTES: usize = 300;

/// Random digits hardly compress better at higher levels, and take much longer. gzip's first level has a fixed
/// code, which digits don't suit.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 2;

/// Writes all rows.
pub(super) fn write(
    synthetic: &Synthetic,
    compression: Compression,
    sink: &mut Sink<'_>,
    lanes: usize,
    control: &Control,
) -> Result<()> {
    let rows = synthetic.options().rows;
    let per_block = (BLOCK_BYTES / (synthetic.options().dim * ELEMENT_BYTES + REST_BYTES)).max(1) as u64;
    // Blocks that have been written go back to the lanes, which would have to fault in new memory else.
    let (spare, spares) = crossbeam_channel::bounded::<Vec<u8>>(lanes * 2);
    let make = |block: u64| {
        let mut text = spares.try_recv().unwrap_or_default();
        text.clear();
        if block == 0 {
            text.extend_from_slice(HEADER.as_bytes());
        }
        let first = block * per_block;
        let count = per_block.min(rows - first);
        let mut writer = RowWriter::new(synthetic);
        (first..first + count).for_each(|number| writer.write(number, &mut text));
        match compression {
            Compression::None => Ok((count, text)),
            Compression::Gzip | Compression::Zstd => {
                let packed = compress(compression, &text)?;
                drop(spare.try_send(text));
                Ok((count, packed))
            }
        }
    };
    let take = |(count, text): (u64, Vec<u8>)| {
        sink.write_all(&text).map_err(|error| sink.failure(error))?;
        control.rows_done(count);
        if compression == Compression::None {
            drop(spare.try_send(text));
        }
        Ok(())
    };
    in_order(rows.div_ceil(per_block), lanes, control, make, take)
}

/// Compresses a block into a gzip member or zstd frame of its own, which readers take one after another.
fn compress(compression: Compression, text: &[u8]) -> Result<Vec<u8>> {
    let packed = match compression {
        Compression::Zstd => zstd::bulk::compress(text, ZSTD_LEVEL),
        _ => {
            let packed = Vec::with_capacity(text.len() / 2);
            let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
    };
    packed.map_err(|error| Error::bug("compress a block").because(error))
}

/// Writes rows with buffers of its own.
struct RowWriter<'a> {
    synthetic: &'a Synthetic,
    embedding: Vec<f32>,
    field: Vec<u8>,
    number: zmij::Buffer,
}

impl<'a> RowWriter<'a> {
    fn new(synthetic: &'a Synthetic) -> Self {
        let embedding = vec![0.0; synthetic.options().dim];
        Self { synthetic, embedding, field: Vec::new(), number: zmij::Buffer::new() }
    }

    fn write(&mut self, number: u64, out: &mut Vec<u8>) {
        let row = self.synthetic.row(number);
        out.extend_from_slice(row.channel.to_string().as_bytes());
        out.push(b',');
        out.extend_from_slice(row.user.to_string().as_bytes());
        for write in [Row::write_content, Row::write_metadata] {
            out.push(b',');
            self.field.clear();
            write(&row, &mut self.field);
            write_field(&self.field, out);
        }
        self.synthetic.write_embedding(&row, &mut self.embedding);
        out.extend_from_slice(b",\"");
        for (index, element) in self.embedding.iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            // Elements of unit vectors are finite.
            out.extend_from_slice(self.number.format_finite(*element).as_bytes());
        }
        out.extend_from_slice(b"]\"\n");
    }
}

/// Writes a field, in quotes where it has to be.
fn write_field(field: &[u8], out: &mut Vec<u8>) {
    let is_plain = |byte: &u8| !matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !field.is_empty() && field.iter().all(is_plain) {
        out.extend_from_slice(field);
        return;
    }
    out.push(b'"');
    let mut from = 0;
    for quote in memchr::memchr_iter(b'"', field) {
        out.extend_from_slice(&field[from..=quote]);
        // The quote stays at the front of the rest, so it is written twice.
        from = quote;
    }
    out.extend_from_slice(&field[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generate::{Destination, Format, Output, write_dataset};
    use crate::source::synthetic::SyntheticOptions;

    fn dataset(rows: u64, dim: usize) -> Synthetic {
        let options = SyntheticOptions { rows, dim, channels: 10, skew: 1.1, clusters: 4, seed: 42 };
        Synthetic::new(options).unwrap()
    }

    fn written(synthetic: &Synthetic, compression: Compression, lanes: usize) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let destination = Destination::File { path: path.clone(), replace: false };
        let output = Output { destination, format: Format::Csv(compression) };
        write_dataset(synthetic, output, lanes, &Control::default()).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_reader_of_csv_gets_every_field_back() {
        let synthetic = dataset(2000, 9);
        let bytes = written(&synthetic, Compression::None, 2);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 2001, "a line for each row");
        let mut reader = ::csv::Reader::from_reader(&bytes[..]);
        assert_eq!(reader.headers().unwrap(), HEADER.trim_end().split(',').collect::<Vec<_>>());
        let mut quoted = 0;
        for (number, record) in reader.records().enumerate() {
            let record = record.unwrap();
            let row = synthetic.row(number as u64);
            let (mut content, mut metadata, mut embedding) = (Vec::new(), Vec::new(), vec![0.0; 9]);
            row.write_content(&mut content);
            row.write_metadata(&mut metadata);
            synthetic.write_embedding(&row, &mut embedding);
            quoted += usize::from(content.contains(&b'"'));
            assert_eq!((&record[0], &record[1]), (&*row.channel.to_string(), &*row.user.to_string()));
            assert_eq!((record[2].as_bytes(), record[3].as_bytes()), (&content[..], &metadata[..]));
            let elements = record[4].strip_prefix('[').unwrap().strip_suffix(']').unwrap().split(',');
            let read: Vec<u32> = elements.map(|text| text.parse::<f32>().unwrap().to_bits()).collect();
            assert!(read.into_iter().eq(embedding.into_iter().map(f32::to_bits)), "bit for bit");
        }
        assert!(quoted > 100, "texts with quotes are among them");
    }

    #[test]
    fn lanes_and_compression_change_nothing() {
        use std::io::Read;
        let synthetic = dataset(30_000, 17);
        let plain = written(&synthetic, Compression::None, 1);
        assert!(plain.len() > 2 * BLOCK_BYTES, "several blocks");
        assert!(plain == written(&synthetic, Compression::None, 3));
        let mut unpacked = Vec::new();
        let packed = written(&synthetic, Compression::Gzip, 2);
        flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(plain == unpacked && packed.len() < plain.len());
        let packed = written(&synthetic, Compression::Zstd, 2);
        assert!(plain == zstd::stream::decode_all(&packed[..]).unwrap() && packed.len() < plain.len());
    }

    proptest! {
        #[test]
        fn floats_read_back_bit_for_bit(bits in any::<u32>()) {
            let float = f32::from_bits(bits);
            prop_assume!(float.is_finite());
            let mut buffer = zmij::Buffer::new();
            let text = buffer.format_finite(float);
            prop_assert_eq!(text.parse::<f32>().unwrap().to_bits(), bits, "{}", text);
        }
    }
}
