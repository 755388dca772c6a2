//! What the executor does for commands, again and again, for `cargo xtask bench instructions`.
//!
//! Each line of the standard input is a request, answered by a line of JSON as those of `speed` are:
//!
//!     run launches|arguments|buffers COUNT     {"commands":…}: so many commands have passed the ring

#[path = "common/marks.rs"]
mod marks;

use std::io::{BufRead as _, Write as _};

use anyhow::{Result, bail};
use marks::{speed_samples_begin, speed_samples_end};
use paragpu::executor::child::measure::{Measured, Stream};

fn main() -> Result<()> {
    let mut measured = Measured::new()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let ["run", stream, count] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("no request {line:?}");
        };
        let stream = match stream {
            "launches" => Stream::Launches,
            "arguments" => Stream::Arguments,
            "buffers" => Stream::Buffers,
            _ => bail!("no stream {stream}"),
        };
        let count = count.parse()?;
        // Once so that all that grows has grown.
        measured.run(stream, count)?;
        let before = measured.commands();
        speed_samples_begin();
        measured.run(stream, count)?;
        speed_samples_end();
        println!(r#"{{"commands":{}}}"#, measured.commands() - before);
        std::io::stdout().flush()?;
    }
    Ok(())
}
