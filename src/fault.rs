//! Fault points: places where tests have the process die, as by SIGKILL.
//!
//! They are there in what `cargo test` builds, where the `fail` crate has its feature `failpoints`, and in no other
//! build. `FAILPOINTS='block-copied=4*off->1*return'` has the process die when it comes to that point for the
//! fifth time.
//!
//! | point | stands between |
//! |---|---|
//! | `block-copied` | a block's rows and its ledger row |
//! | `block-recorded` | its ledger row and COMMIT |
//! | `block-committed` | the answer to COMMIT and any note of it |
//! | `undo-between` | two transactions of `loads undo` |
//! | `compaction-between` | the two transactions of compaction |

use fail::FailScenario;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sets the points as the variable `FAILPOINTS` says, for the life of the process; does nothing in usual builds.
pub fn set_up() {
    if fail::has_failpoints() {
        // Dropped, it would clear the points.
        let _scenario: &'static mut FailScenario<'static> = Box::leak(Box::new(FailScenario::setup()));
    }
}

/// What a point does with `return`: nothing can be put in order.
pub fn die<T>(_argument: Option<String>) -> T {
    // SIGKILL is delivered before the call comes back.
    let _dead = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}
