//! The help texts, word for word: what is promised there is what the other tests hold vecload to.

use super::program::vecload;

fn help(words: &[&str]) -> String {
    vecload(words).run().exits(0).stdout
}

#[test]
fn the_commands_are_listed() {
    insta::assert_snapshot!(help(&["--help"]), @"");
}

#[test]
fn the_options_of_load_are_listed() {
    insta::assert_snapshot!(help(&["load", "--help"]), @"");
}
