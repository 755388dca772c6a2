//! Which OpenCL the host has.

use super::{Place, output_of};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The first platform and its first device, which programs take unless told otherwise.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Platform {
    /// Such as `Portable Computing Language`.
    pub(crate) name: String,
    /// Such as `OpenCL 3.0 PoCL 3.1+debian  Linux, …`.
    pub(crate) version: String,
    pub(crate) device: String,
    pub(crate) driver: String,
}

impl Platform {
    /// Asks clinfo.
    pub(crate) fn of(place: &Place) -> Result<Platform> {
        let output = output_of(place, "clinfo", &["--raw"])
            .context("clinfo tells which OpenCL the host has, and it failed (Debian's package clinfo)")?;
        Platform::parse(&output).context("clinfo found no OpenCL device on the host")
    }

    fn parse(output: &str) -> Option<Platform> {
        let value = |key: &str| {
            let lines = output.lines().filter_map(|line| {
                // The name of the platform and of the device stand before each key, in brackets.
                let line = line.trim_start();
                let line = match line.strip_prefix('[') {
                    Some(rest) => rest.split_once(']')?.1.trim_start(),
                    None => line,
                };
                let rest = line.strip_prefix(key)?;
                rest.starts_with(char::is_whitespace).then(|| rest.trim().to_owned())
            });
            lines.into_iter().next()
        };
        Some(Platform {
            name: value("CL_PLATFORM_NAME")?,
            version: value("CL_PLATFORM_VERSION")?,
            device: value("CL_DEVICE_NAME")?,
            driver: value("CL_DRIVER_VERSION")?,
        })
    }

    /// All of it in one line, to tell one host's OpenCL from another.
    pub(crate) fn identity(&self) -> String {
        [&self.name, &self.version, &self.device, &self.driver].map(String::as_str).join(" | ")
    }

    /// What people call it, such as `PoCL 3.1+debian`.
    pub(crate) fn title(&self) -> String {
        // "OpenCL", its version, and then what the vendor says of itself: a name and a version, or less.
        let words: Vec<_> = self.version.split_whitespace().skip(2).take(2).collect();
        match words[..] {
            [name, version] => format!("{name} {version}"),
            _ => format!("{} {}", self.name, self.driver),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Platform;

    #[test]
    fn the_first_platform_and_device_of_clinfos_output_are_found() {
        let output = "#PLATFORMS 1\n  CL_PLATFORM_NAME     Portable Computing Language\n\
            \x20 CL_PLATFORM_VERSION   OpenCL 3.0 PoCL 3.1+debian  Linux, LLVM 15.0.6\n\
            [POCL/*]    CL_PLATFORM_NAME      Portable Computing Language\n\
            [POCL/0]    CL_DEVICE_NAME_OF_OTHERS     x\n\
            [POCL/0]    CL_DEVICE_NAME        pthread-haswell\n\
            [POCL/0]    CL_DRIVER_VERSION     3.1+debian\n\
            [POCL/1]    CL_DEVICE_NAME        second\n";
        let platform = Platform::parse(output).unwrap();
        assert_eq!(platform.title(), "PoCL 3.1+debian");
        assert_eq!(platform.device, "pthread-haswell");
        assert!(platform.identity().contains("Language | OpenCL 3.0 PoCL 3.1+debian"));
        assert!(Platform::parse("#PLATFORMS 0\n").is_none());
        let terse = Platform { name: "A".into(), version: "OpenCL 3.1 LINUX".into(), ..platform };
        assert_eq!(terse.title(), "A 3.1+debian");
    }
}
