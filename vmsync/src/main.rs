//! The `vmsync` program.

fn main() -> std::process::ExitCode {
    vmsync::cli::main()
}
