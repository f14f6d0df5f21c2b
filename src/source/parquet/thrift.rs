//! Thrift's compact protocol, as far as Parquet's own structures need it.
//!
//! The reader is bounded by its slice and its depth, so no length in a damaged structure is believed.

/// Kinds of the compact protocol, as far as skipping tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

/// Reads values one after another; each gives `None` where the bytes end or can't be what is asked for.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    const DEPTH_MAX: usize = 16;

    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

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

    pub(super) fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// The next field's kind, `Some(None)` at the struct's end; `field` becomes its number.
    #[expect(
        clippy::option_option,
        reason = "the outer one is 'the bytes ended', the inner one 'the struct did'"
    )]
    pub(super) fn next_field(&mut self, field: &mut i64) -> Option<Option<Kind>> {
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

    /// A list's length and the kind of its items, `Some(None)` where it is empty.
    #[expect(
        clippy::option_option,
        reason = "the outer one is 'the bytes ended', the inner one 'the list has no items'"
    )]
    pub(super) fn list(&mut self) -> Option<Option<(u64, Kind)>> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        if count == 0 { Some(None) } else { Some(Some((count, Self::kind(head & 0x0f)?))) }
    }

    pub(super) fn skip(&mut self, kind: Kind, depth: usize) -> Option<()> {
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
                let Some((count, item)) = self.list()? else { return Some(()) };
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
