//! Starts the command line.

fn main() -> std::process::ExitCode {
    stepwell::cli::main()
}
