//! What a program gets to see when the device lies (guest-driver/liar).

use std::io::Result as Io;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::cycles::pinned_pages;
use crate::node::{FENCE, Memory, Node, REGION_PIN};

/// Checks that each call ends as it must under this lie, and in time.
pub(crate) fn check(path: &str, lie: &str) -> Result<()> {
    let node = Node::open(path)?;
    let start = Instant::now();
    let made = error(node.create(64 << 10).map(drop));
    match lie {
        "none" => ensure!(made.is_none(), "{made:?}"),
        "short-context" | "long-resource" => ensure!(made == Some(libc::EIO), "{made:?}"),
        "no-resource" => ensure!(made == Some(libc::ENOMEM), "{made:?}"),
        "unknown-answer" | "double-answer" => {
            // What was answered before the queue broke may have been right.
            let then = error(node.create(4096).map(drop));
            ensure!(then == Some(libc::ENODEV), "{made:?}, then {then:?}");
        }
        "no-unref" | "silent-unref" => {
            ensure!(made.is_none(), "{made:?}");
            let own = Memory::anonymous(64 << 10)?;
            node.call(REGION_PIN, &mut [own.start.addr() as u64, own.bytes as u64, 0, 0])?;
            node.close(2)?;
            std::thread::sleep(Duration::from_millis(200));
            ensure!(pinned_pages()? == 16, "pages went that the device may still have");
        }
        "silent-submit" => {
            ensure!(made.is_none(), "{made:?}");
            let fence = node.submit(&[3, 0], FENCE)?;
            let waited = error(node.wait(fence, 100_000_000));
            ensure!(waited == Some(libc::ETIMEDOUT), "{waited:?}");
            ensure!(error(node.wait(fence + 1, 0)) == Some(libc::EINVAL), "a fence that never was");
            let mut submitted = 1;
            while submitted < 128 {
                node.submit(&[2, 0], 0)?;
                submitted += 1;
            }
        }
        // The one that waits for the answer is to be killed.
        "silent-resource" => bail!("the region was made, or given up: {made:?}"),
        _ => bail!("no such lie: {lie}"),
    }
    ensure!(start.elapsed() < Duration::from_secs(25), "a call took {:?}", start.elapsed());
    Ok(())
}

fn error(result: Io<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
