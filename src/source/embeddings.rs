//! Embeddings of a batch: floats that were made or converted, or the bytes in which a page of Parquet has them.

use bytes::Bytes;

use crate::batch::reject::Reason;

/// Embeddings of a batch: `dim` floats for each row that has no fault, all in one form.
#[derive(Debug, Default)]
pub struct Embeddings {
    /// The target's dimension.
    pub dim: usize,
    /// Those that were made or converted, one row after another.
    pub values: Vec<f32>,
    /// Those that are as they were stored.
    pub stored: StoredRows,
    /// Rows without a usable embedding, ascending, each with the reason and an excerpt.
    pub faults: Vec<(usize, Reason, String)>,
}

/// An embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Embedding<'a> {
    /// Its elements.
    Floats(&'a [f32]),
    /// Its elements as they are stored, little-endian.
    Stored(&'a [[u8; 4]]),
}

impl Embedding<'_> {
    /// Its elements.
    pub fn to_vec(self) -> Vec<f32> {
        match self {
            Self::Floats(values) => values.to_vec(),
            Self::Stored(values) => values.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        }
    }
}

/// Embeddings that lie in pages, which are kept as long as the batch.
#[derive(Debug, Default)]
pub struct StoredRows {
    pages: Vec<Bytes>,
    held_bytes: usize,
    /// Page and element that each row begins with.
    rows: Vec<(u32, u32)>,
}

impl StoredRows {
    /// Takes a page from which rows are added; gives its number.
    pub fn add_page(&mut self, page: Bytes) -> u32 {
        self.held_bytes += page.len();
        self.pages.push(page);
        // A batch has fewer pages than rows, and those are counted in 32 bits.
        (self.pages.len() - 1) as u32
    }

    /// Adds a row that begins with this element of a page.
    pub fn push(&mut self, page: u32, element: u32) {
        self.rows.push((page, element));
    }

    /// Bytes of all pages.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn clear(&mut self) {
        self.pages.clear();
        self.held_bytes = 0;
        self.rows.clear();
    }
}

impl Embeddings {
    /// None yet, in memory that was used before.
    pub fn reusing(dim: usize, mut values: Vec<f32>) -> Self {
        values.clear();
        Self { dim, values, ..Self::default() }
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.values.clear();
        self.stored.clear();
        self.faults.clear();
    }

    /// Elements of all rows.
    pub fn elements(&self) -> usize {
        self.values.len() + self.stored.rows.len() * self.dim
    }

    /// The embedding of this number among those that are there; `None` beyond.
    pub fn get(&self, index: usize) -> Option<Embedding<'_>> {
        let Some((page, element)) = self.stored.rows.get(index) else {
            let start = index.checked_mul(self.dim)?;
            return self.values.get(start..start.checked_add(self.dim)?).map(Embedding::Floats);
        };
        let (elements, _) = self.stored.pages.get(*page as usize)?.as_chunks::<4>();
        let start = *element as usize;
        elements.get(start..start.checked_add(self.dim)?).map(Embedding::Stored)
    }

    /// Adds one row's embedding from a reader that gives it row by row.
    pub fn push_row(
        &mut self,
        row: usize,
        read: impl FnOnce(&mut Vec<f32>) -> Result<(), Reason>,
        shown: impl FnOnce() -> String,
    ) {
        let start = self.values.len();
        let fault = match read(&mut self.values) {
            Ok(()) if self.values.len() - start == self.dim => return,
            Ok(()) => Reason::Dimension { found: self.values.len() - start, expected: self.dim },
            Err(reason) => reason,
        };
        self.values.truncate(start);
        self.faults.push((row, fault, shown()));
    }
}
