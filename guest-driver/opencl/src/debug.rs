//! What the driver has to say goes to standard error, and only when `PARAGPU_DEBUG` is set: the terminal
//! belongs to the application.

/// True if `PARAGPU_DEBUG` is set.
pub(crate) fn enabled() -> bool {
    std::env::var_os("PARAGPU_DEBUG").is_some()
}

macro_rules! debug {
    ($($arg:tt)*) => {
        if $crate::debug::enabled() {
            eprintln!("paragpu: {}", format_args!($($arg)*));
        }
    };
}
pub(crate) use debug;
