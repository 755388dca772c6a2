//! How the driver is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Its threads may be anywhere in the library when an application, or its loader, unloads it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
