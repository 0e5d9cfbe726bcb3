//! tmp
#[derive(Debug, clap::Args)]
pub struct Options {}
pub async fn rehearse(_o: Options) -> anyhow::Result<u8> {
    Ok(0)
}
