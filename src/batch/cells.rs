//! One target column of a batch, its values already in the server's binary form.

use arrow::array::{Array, BinaryArray};
use arrow::buffer::NullBuffer;

use crate::copy::{put_null, put_value};

/// The values of one column for the rows of a batch; row numbers are the source batch's.
#[derive(Debug)]
pub enum Cells {
    /// One field, length included, for every row.
    Constant(Vec<u8>),
    /// Values of one width.
    Fixed {
        /// Bytes of a value.
        width: usize,
        /// `rows × width` bytes.
        bytes: Vec<u8>,
        /// Which rows are null.
        nulls: Option<NullBuffer>,
    },
    /// Values of any length.
    Variable {
        /// A type's leading byte, if it has one.
        prefix: &'static [u8],
        /// The values; for text these are the source's own buffers.
        values: BinaryArray,
    },
}

impl Cells {
    /// Appends the field of `row`.
    #[inline]
    pub fn put(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Constant(field) => out.extend_from_slice(field),
            Self::Fixed { nulls: Some(nulls), .. } if nulls.is_null(row) => put_null(out),
            Self::Fixed { width, bytes, .. } => put_value(out, &[], &bytes[row * width..][..*width]),
            Self::Variable { values, .. } if values.is_null(row) => put_null(out),
            Self::Variable { prefix, values } => put_value(out, prefix, values.value(row)),
        }
    }

    /// Bytes that [`Self::put`] appends for `row`.
    #[inline]
    pub fn field_bytes(&self, row: usize) -> usize {
        match self {
            Self::Constant(field) => field.len(),
            Self::Fixed { nulls: Some(nulls), .. } if nulls.is_null(row) => 4,
            Self::Fixed { width, .. } => 4 + width,
            Self::Variable { values, .. } if values.is_null(row) => 4,
            Self::Variable { prefix, values } => {
                let offsets = values.value_offsets();
                4 + prefix.len() + (offsets[row + 1] - offsets[row]) as usize
            }
        }
    }
}
