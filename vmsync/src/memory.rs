//! How the C library's allocator is told to keep to little memory.
//!
//! glibc gives threads that allocate at once heaps of their own, up to eight for each processor, and
//! what is free in one is no use to another: a node that took a backlog held three times what it used.
//! How many there may be is read from the environment, once, when a program starts; so a node
//! starts itself over, in place (same process, same arguments), with that set. Where the operator has
//! set it, it stays as it is. (The call that would set it from within is not safe Rust, and none of
//! the other allocators tried held less: docs/bench.md.)

use std::{env, os::unix::process::CommandExt, process::Command};

/// glibc's setting, mallopt(3).
const ARENAS: &str = "MALLOC_ARENA_MAX";
const FEW: &str = "2";

/// Returns in a process that has the setting; or where it could not be had, which only costs memory.
pub(crate) fn settle() {
    if env::var_os(ARENAS).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Comes back only with an error.
    let _ = again.args(args).env(ARENAS, FEW).exec();
}
