//! Panics of the decoder on damaged input are errors about the input.
//!
//! The Parquet crate answers most damage with an error, and some with a panic. Calls into it go through
//! [`guarded`], so that a damaged file ends a load in the ordinary way.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::{ParquetError, Result};

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics inside `guarded` from being printed; all others are printed as before.
pub fn quiet_decoder_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !DECODING.get() {
            print(info);
        }
    }));
}

/// Runs a call into the decoder; a panic becomes an error. What the call worked on must not be used again.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    let outer = DECODING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(ParquetError::General(format!("the decoder gave up: {text}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let caught = guarded::<()>(|| panic!("page {}", 7)).map_err(|error| error.to_string());
        assert!(caught.is_err_and(|text| text.contains("page 7")));
        assert_eq!(guarded(|| Ok(1)).ok(), Some(1));
    }
}
