//! A list of checks as a program: which of them run, on which platform, and what became of them.

use anyhow::{Result, ensure};

use super::Gpu;

/// Which checks run, and where.
#[derive(clap::Args)]
pub(crate) struct Choice {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    pub(crate) platform: String,
    /// Run only the checks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// A check, by name: what it makes of a bench.
pub(crate) type Check<B, O = ()> = (&'static str, fn(&B) -> Result<O>);

/// What a check returns that finds nothing wrong.
pub(crate) trait Outcome {
    /// The reason for which it was not made, if so.
    fn skipped(self) -> Option<String>;
}

impl Outcome for () {
    fn skipped(self) -> Option<String> {
        None
    }
}

impl Outcome for Option<String> {
    fn skipped(self) -> Option<String> {
        self
    }
}

impl Choice {
    /// The platform's first device, which is told.
    pub(crate) fn open(&self) -> Result<Gpu> {
        let gpu = Gpu::open(&self.platform)?;
        println!("device: {}", gpu.device.name()?);
        Ok(gpu)
    }

    /// Makes the chosen checks, each with `bench`; an error if one of them fails, or if there is none.
    pub(crate) fn make<B, O: Outcome>(
        &self,
        checks: &[(&'static str, impl Fn(&B) -> Result<O>)],
        bench: &B,
    ) -> Result<()> {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for (name, check) in checks.iter().filter(|(name, _)| name.contains(&self.only)) {
            match check(bench).map(Outcome::skipped) {
                Ok(None) => {
                    passed += 1;
                    println!("ok    {name}");
                }
                Ok(Some(reason)) => {
                    skipped += 1;
                    println!("skip  {name}: {reason}");
                }
                Err(error) => {
                    failed += 1;
                    println!("FAIL  {name}: {error:#}");
                }
            }
        }
        let skips = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        println!("{passed} passed, {failed} failed{skips}");
        ensure!(failed == 0, "{failed} checks failed");
        ensure!(passed > 0, "no check was made");
        Ok(())
    }
}

/// Numbers that look random and are the same in every run.
pub(crate) fn numbers(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).collect()
}
