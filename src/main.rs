//! The `vstar` program: subcommands, nothing else.
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[derive(Parser)]
enum Cli {
    Bench(vstar::bench::BenchArgs),
}
fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Bench(args) => vstar::bench::run(&args),
    }
}
