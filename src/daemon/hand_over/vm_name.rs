//! What the VM is called for which libvirt started this process.
//!
//! libvirt passes no name. But it opens a file `ID-NAME-ALIAS-vhost-user-gpu.pid` in a directory of its own, whose lock
//! the process keeps by inheriting the descriptor. The path is read off the descriptor: opening the file and closing it
//! again would release the lock, by which libvirt knows that the process lives.

use std::path::Path;

use super::VmName;

/// libvirt cuts names in files after so many characters.
const MOST_CHARS: usize = 20;

const SUFFIX: &str = "-vhost-user-gpu.pid";

/// The VM's name, if there is such a descriptor.
pub(super) fn find() -> VmName {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return VmName::Unknown };
    let paths = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    paths.filter_map(|path| in_path(&path)).next().unwrap_or_default()
}

fn in_path(path: &Path) -> Option<VmName> {
    let stem = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let (id, rest) = stem.split_once('-')?;
    let (name, alias) = rest.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // An alias that the domain's XML chooses may have hyphens of its own, so that nobody can tell where it begins.
    if !is_number(id) || !alias.strip_prefix("video").is_some_and(is_number) || name.is_empty() {
        return None;
    }
    let cut = name.chars().count() >= MOST_CHARS;
    Some(if cut { VmName::Cut(name.to_owned()) } else { VmName::Whole(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_off_the_paths_of_libvirts_files_and_nothing_else() {
        let whole = |name: &str| Some(VmName::Whole(name.to_owned()));
        let table = [
            ("/run/libvirt/qemu/1-demo-video0-vhost-user-gpu.pid", whole("demo")),
            ("/run/libvirt/qemu/12-a-b-3-video1-vhost-user-gpu.pid", whole("a-b-3")),
            ("/run/libvirt/qemu/1-demo-ua-gpu-vhost-user-gpu.pid", None),
            ("/run/libvirt/qemu/1--video0-vhost-user-gpu.pid", None),
            ("/run/libvirt/qemu/x-demo-video0-vhost-user-gpu.pid", None),
            ("/run/libvirt/qemu/demo-video0-vhost-user-gpu.pid", None),
            ("/run/libvirt/qemu/demo.pid", None),
            ("/", None),
        ];
        for (path, expected) in table {
            assert_eq!(in_path(Path::new(path)), expected, "{path}");
        }
        let long = "n".repeat(MOST_CHARS);
        let path = format!("/run/libvirt/qemu/1-{long}-video0-vhost-user-gpu.pid");
        assert_eq!(in_path(Path::new(&path)), Some(VmName::Cut(long)));
    }
}
