//! stub
#[derive(clap::Args)]
pub(crate) struct Demo {}
impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        anyhow::bail!("stub")
    }
}
