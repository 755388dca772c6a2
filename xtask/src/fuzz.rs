//! stub
#[derive(clap::Args)]
pub(crate) struct Fuzz {}
impl Fuzz {
    pub(crate) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        anyhow::bail!("stub")
    }
}
