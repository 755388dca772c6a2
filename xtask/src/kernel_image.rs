//! The kernel inside a compressed boot image.
//!
//! A distribution's `vmlinuz` unpacks itself when it boots, which takes an emulated processor several seconds. QEMU
//! can also start the ELF file inside (by its PVH note), so it is unpacked here, once. Format: "The Linux/x86 Boot
//! Protocol" of the Linux sources.

use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Unpacks the ELF file in `image`, by the program that fits its compression.
pub(crate) fn elf_inside(image: &Path) -> Result<Vec<u8>> {
    let image = std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&image).context("this is no boot image of boot protocol 2.08 or later")?;
    let tool = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => bail!("the kernel is compressed in an unknown way"),
    };
    let elf = filter(tool, payload)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the boot image holds no ELF file");
    }
    Ok(elf)
}

/// The compressed kernel in a boot image, without the size that follows it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const SIZE_AFTER_PAYLOAD: usize = 4;
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512;
    let start = setup.checked_add(number(image, PAYLOAD_OFFSET)?)?;
    let length = number(image, PAYLOAD_LENGTH)?.checked_sub(SIZE_AFTER_PAYLOAD)?;
    image.get(start..start.checked_add(length)?)
}

fn number(image: &[u8], at: usize) -> Option<usize> {
    let bytes = image.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Decompresses `input` with `tool`.
fn filter(tool: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(tool);
    command.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {tool}"))?;
    let mut stdin = child.stdin.take().context("no pipe to the decompressor")?;
    let output = std::thread::scope(|scope| {
        // A write that fails shows in the exit status.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot read from {tool}"))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack the kernel");
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn the_payload_is_found_by_the_header() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c] = 9;
        image[1040..1045].copy_from_slice(b"hello");
        assert_eq!(payload(&image), Some(&b"hello"[..]));
        image[0x24f] = 0xff;
        assert_eq!(payload(&image), None, "a length beyond the end");
        assert_eq!(payload(b"short"), None);
    }
}
