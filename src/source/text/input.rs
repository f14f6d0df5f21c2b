//! The bytes of a source of text: from a file or standard input, decompressed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::GzDecoder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use twox_hash::XxHash3_128;

use super::scanner::UNIT_BYTES;
use crate::error::{Context, Error, Result};
use crate::source::Place;

/// How often a wait for standard input looks whether the load is stopping.
const STOP_LOOK_MILLIS: u16 = 100;

/// The first bytes tell how a source is compressed; of Zstandard these are the longest frame header.
const MAGIC_BYTES: usize = 18;

/// What a unit of text takes at least: its bytes, and places where fields end.
pub const UNIT_MEMORY_MIN: usize = UNIT_BYTES as usize + (1 << 20);

/// Compressed bytes read at a time.
const GZIP_READ_BYTES: usize = 64 << 10;

/// Asked whether the load is stopping.
pub type Stopping = Arc<dyn Fn() -> bool + Send + Sync>;

/// How a source is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one member or more.
    Gzip,
    /// Zstandard, of one frame or more.
    Zstd,
}

/// What of a source has been read as it is stored.
#[derive(Default)]
pub struct Stored {
    bytes: AtomicU64,
    /// Of a file; a stream is known by its units.
    hasher: Option<Mutex<XxHash3_128>>,
}

impl Stored {
    /// Bytes read so far, as stored.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Hash of the bytes of a file that were read so far, in hexadecimal.
    pub fn hash(&self) -> Option<String> {
        let hasher = self.hasher.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(format!("{:032x}", hasher.finish_128()))
    }
}

/// Decompressed bytes, in order.
pub struct TextInput {
    reader: Box<dyn Read + Send>,
    place: Place,
    compression: Compression,
    window_bytes: usize,
    stored: Arc<Stored>,
}

impl TextInput {
    /// Opens a source; a Zstandard window may take `window_bytes_max`.
    pub fn open(place: &Place, window_bytes_max: usize, stopping: Stopping) -> Result<Self> {
        let raw: Box<dyn Read + Send> = match place {
            Place::File(path) => {
                Box::new(File::open(path).or_refused(|| format!("open {}", path.display()))?)
            }
            Place::Stdin => {
                let stdin = io::stdin().as_fd().try_clone_to_owned();
                let stdin = stdin.or_refused(|| "open standard input".into())?;
                Box::new(Waiting { file: File::from(stdin), stopping })
            }
            Place::Synthetic => return Err(Error::bug("synthetic rows are read as text")),
        };
        let hasher = matches!(place, Place::File(_)).then(|| Mutex::new(XxHash3_128::new()));
        let stored = Arc::new(Stored { bytes: AtomicU64::new(0), hasher });
        let mut raw = Counted { raw, stored: Arc::clone(&stored) };
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        let read = (&mut raw).take(MAGIC_BYTES as u64).read_to_end(&mut magic);
        read.or_refused(|| format!("read {place}"))?;
        let other = |kind: &str, command: &str| {
            Err(Error::refused(format!("{place} is {kind}, which vecload does not read"))
                .hint(format!("decompress it on the way: {command} | vecload load -")))
        };
        let compression = match magic[..] {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => return other("bzip2-compressed", "bzip2 -dc FILE"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return other("xz-compressed", "xz -dc FILE"),
            [0x04, 0x22, 0x4d, 0x18, ..] => return other("lz4-compressed", "lz4 -dc FILE"),
            [b'P', b'K', 3, 4, ..] => return other("a zip archive", "unzip -p FILE"),
            _ => Compression::None,
        };
        let window_bytes = match compression {
            Compression::Zstd => zstd_window(&magic).unwrap_or(0),
            _ => 0,
        };
        let raw = Cursor::new(magic).chain(raw);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(GzipMembers::new(raw)),
            Compression::Zstd => {
                // A frame asks for memory of its window, which is a part of --memory.
                if window_bytes > window_bytes_max as u64 {
                    return Err(Error::refused(format!(
                        "{place} needs a window of {} MiB to be decompressed, and --memory leaves {} MiB for it",
                        window_bytes.div_ceil(1 << 20),
                        window_bytes_max >> 20
                    ))
                    .hint(format!(
                        "give --memory {}MiB or more, or compress without --long",
                        memory_for_window(window_bytes) >> 20
                    )));
                }
                let mut decoder =
                    zstd::stream::read::Decoder::new(raw).or_refused(|| format!("read {place}"))?;
                let later_frames = window_bytes_max.max(1 << 20).ilog2().min(31);
                decoder.window_log_max(later_frames).or_refused(|| format!("read {place}"))?;
                Box::new(decoder)
            }
        };
        Ok(Self { reader, place: place.clone(), compression, window_bytes: window_bytes as usize, stored })
    }

    /// Bytes of a reader, as they are.
    pub(super) fn of_reader(place: Place, reader: Box<dyn Read + Send>) -> Self {
        Self { reader, place, compression: Compression::None, window_bytes: 0, stored: Arc::default() }
    }

    /// Puts bytes that were read already in front again.
    pub fn again(self, read: Vec<u8>) -> Self {
        Self { reader: Box::new(Cursor::new(read).chain(self.reader)), ..self }
    }

    /// Fills as much of `buffer` as one call gives; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => return Ok(read),
                Err(error) => return Err(self.unreadable(error)),
            }
        }
    }

    fn unreadable(&self, error: io::Error) -> Error {
        let place = &self.place;
        let at = self.stored.bytes();
        let (what, hint) = match (self.compression, error.kind()) {
            (Compression::None, _) => {
                (format!("read {place} at byte {at}"), "check the device, then run again")
            }
            (_, ErrorKind::UnexpectedEof) => (
                format!("{place} ends in the middle of its compressed data, after {at} bytes"),
                "the file is truncated (an upload or copy that was cut?); take back what was loaded of it (vecload \
                 loads undo), then load a whole copy",
            ),
            (Compression::Zstd, _) if error.to_string().contains("memory") => (
                format!("decompress {place}: its window is larger than --memory leaves for it"),
                "a later frame has a larger window than the first: give more --memory, or compress without --long",
            ),
            _ => (
                format!("decompress {place}, about byte {at}"),
                "the compressed data is damaged, maybe before the place where it shows; take back what was loaded of \
                 it (vecload loads undo), then load a good copy",
            ),
        };
        Error::failed(what).because(error).hint(hint)
    }

    /// Where the bytes come from.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How they are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Memory of the decompressor's window.
    pub fn window_bytes(&self) -> usize {
        self.window_bytes
    }

    /// What has been read as stored.
    pub fn stored(&self) -> &Arc<Stored> {
        &self.stored
    }
}

impl fmt::Debug for TextInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextInput").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The window that a Zstandard frame asks for, from its header (RFC 8878, 3.1.1.1).
fn zstd_window(header: &[u8]) -> Option<u64> {
    let descriptor = *header.get(4)?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let window = *header.get(5)?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The content is the window.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = |bytes: usize| {
        let field = header.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    match descriptor >> 6 {
        0 => size(1),
        1 => size(2).map(|size| size + 256),
        2 => size(4),
        _ => size(8),
    }
}

/// The `--memory` that leaves so much for a window, beside a unit of text and what lanes take.
pub fn memory_for_window(window_bytes: u64) -> u64 {
    ((window_bytes + UNIT_MEMORY_MIN as u64) * 8 / 3).next_multiple_of(1 << 20)
}

/// The members of a gzip stream, one after another. Zeros may follow the last one, as tapes and block devices
/// leave them; anything else is an error, where flate2's own reader calls it a damaged or cut member.
struct GzipMembers<R: Read> {
    /// None at the end.
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> GzipMembers<R> {
    fn new(raw: R) -> Self {
        Self { member: Some(GzDecoder::new(BufReader::with_capacity(GZIP_READ_BYTES, raw))) }
    }
}

impl<R: Read> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut raw) = self.member.take().map(GzDecoder::into_inner) else { break };
            loop {
                let next = raw.fill_buf()?;
                let zeros = next.iter().take_while(|byte| **byte == 0).count();
                match next.get(zeros) {
                    None if next.is_empty() => break,
                    None => raw.consume(zeros),
                    Some(0x1f) => {
                        raw.consume(zeros);
                        self.member = Some(GzDecoder::new(raw));
                        break;
                    }
                    Some(_) => {
                        return Err(io::Error::new(
                            ErrorKind::InvalidData,
                            "something else follows the gzip data",
                        ));
                    }
                }
            }
        }
        Ok(0)
    }
}

/// Counts and hashes what passes.
struct Counted<R> {
    raw: R,
    stored: Arc<Stored>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(buffer)?;
        if let Some(hasher) = &self.stored.hasher {
            hasher.lock().unwrap_or_else(PoisonError::into_inner).write(&buffer[..read]);
        }
        self.stored.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Standard input, whose other end may not write for hours while the load is asked to stop.
struct Waiting {
    file: File,
    stopping: Stopping,
}

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(STOP_LOOK_MILLIS)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return self.file.read(buffer),
                Err(error) => return Err(error.into()),
            }
            if (self.stopping)() {
                return Err(io::Error::other("the load is stopping"));
            }
        }
    }
}
