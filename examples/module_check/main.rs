//! What the guest's kernel module stands, from a program's point of view. Runs in a VM with the module:
//!
//!     cargo xtask vm --guest module -- target/debug/examples/module_check cycles
//!
//! `cycles` opens, allocates, submits and closes in many processes, and checks that the kernel holds no more afterwards.
//! `kill` kills processes in the middle of that. `hold` keeps a file open until standard input ends, while which the device
//! must have been taken away. `hostile` makes random calls; what came of that is in the kernel's log. `work` is one process's
//! part of `cycles`. `lie` checks what calls do when the device (guest-driver/liar) tells that lie, and `pinned` that
//! no page is pinned.

mod cycles;
mod hostile;
mod lies;
mod node;
mod random;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

/// Tries what the guest's kernel module stands.
#[derive(Parser)]
struct Arguments {
    /// The module's node.
    #[arg(long, default_value = "/dev/paragpu0")]
    node: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Cycles {
        #[arg(long, default_value_t = 8)]
        processes: u64,
        #[arg(long, default_value_t = 1000)]
        cycles: u64,
    },
    Kill {
        #[arg(long, default_value_t = 10)]
        rounds: u64,
    },
    Hold,
    Hostile {
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    Lie {
        lie: String,
    },
    Pinned,
    Work {
        cycles: u64,
        seed: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let node = &arguments.node;
    match arguments.what {
        What::Cycles { processes, cycles } => cycles::check(node, processes, cycles),
        What::Kill { rounds } => cycles::kill(node, rounds),
        What::Hold => cycles::hold(node),
        What::Hostile { seconds, seed } => hostile::attack(node, Duration::from_secs(seconds), seed),
        What::Lie { lie } => lies::check(node, &lie),
        What::Pinned => {
            let pages = cycles::pinned_pages()?;
            ensure!(pages == 0, "{pages} pages are still pinned");
            Ok(())
        }
        What::Work { cycles, seed } => cycles::work(node, cycles, seed),
    }
}
