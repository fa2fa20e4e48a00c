//! The `vmsync` program.

/// Twice the speed of the C library's for what a node does, with its arenas as few as its memory
/// allows (docs/decisions/0014-allocator.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    vmsync::cli::main()
}
