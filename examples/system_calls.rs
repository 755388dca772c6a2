//! A hostile guest: a kernel that makes the system calls that it is told to. On a CPU device kernels are machine code in
//! the host's executor, so these are the executor's calls. Prints each call's result (negative: an error's number), in the
//! order of the arguments; fails if the device is lost.
//!
//!     paragpu run -- target/debug/examples/system_calls 41,2,1,0
//!
//! A call is its number and up to six arguments, with commas between them: a number; `s:text`, the address of a string; `x:hex`,
//! the address of these bytes; `m:`, the address of a page of zeroes; or `r:index`, the result of an earlier call. A new process that a call makes stays.

mod common;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use opencl3::kernel::{ExecuteKernel, Kernel};

use common::Gpu;

const SOURCE: &str = r#"
// OpenCL C has no variables in chosen registers.
#if defined(__x86_64__)
long call(long n, long a, long b, long c, long d, long e, long f) {
    long result;
    __asm__ volatile("movq %5, %%r10; movq %6, %%r8; movq %7, %%r9; syscall" : "=a"(result)
        : "a"(n), "D"(a), "S"(b), "d"(c), "r"(d), "r"(e), "r"(f) : "rcx", "r8", "r9", "r10", "r11", "memory");
    return result;
}
#define PPOLL 271
#elif defined(__aarch64__)
long call(long n, long a, long b, long c, long d, long e, long f) {
    long result;
    __asm__ volatile("mov x8, %1; mov x0, %2; mov x1, %3; mov x2, %4; mov x3, %5; mov x4, %6; mov x5, %7; svc #0; mov %0, x0"
        : "=r"(result) : "r"(n), "r"(a), "r"(b), "r"(c), "r"(d), "r"(e), "r"(f)
        : "x0", "x1", "x2", "x3", "x4", "x5", "x8", "memory");
    return result;
}
#define PPOLL 73
#endif

long value(global const int* argument, global const char* text, global char* page, global const long* results) {
    switch (argument[0]) {
    case 1: return (long)(text + argument[1]);
    case 2: return (long)page;
    case 3: return results[argument[1]];
    default: return ((long)argument[2] << 32) | (uint)argument[1];
    }
}

kernel void run(int count, global const int* calls, global const char* text, global char* page, global long* results) {
    for (int i = 0; i < count; ++i) {
        global const int* it = calls + i * 21;
        long a[7];
        for (int j = 0; j < 7; ++j)
            a[j] = value(it + j * 3, text, page, results);
        long result = call(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        // A new process, which is not to report anything: this memory is its parent's too.
        while (result == 0 && a[0] == CLONE)
            call(PPOLL, 0, 0, 0, 0, 0, 0);
        results[i] = result;
    }
}
"#;

const PAGE_BYTES: usize = 4096;

/// Makes system calls from a kernel.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
    /// What to call.
    #[arg(required = true)]
    calls: Vec<String>,
}

/// An argument as the kernel reads it: its kind, and the lower and upper half of its value.
fn encode(argument: &str, text: &mut Vec<u8>) -> Result<[i32; 3]> {
    let (kind, value) = match argument.split_once(':') {
        Some(("s", string)) => {
            let at = text.len();
            text.extend(string.as_bytes());
            text.push(0);
            (1, at as i64)
        }
        Some(("x", digits)) => {
            let at = text.len();
            for digit in 0..digits.len() / 2 {
                text.push(u8::from_str_radix(&digits[digit * 2..digit * 2 + 2], 16)?);
            }
            (1, at as i64)
        }
        Some(("m", _)) => (2, 0),
        Some(("r", index)) => (3, index.parse()?),
        Some(_) => bail!("{argument}: unknown kind"),
        None => (0, argument.parse().with_context(|| format!("{argument} is no number"))?),
    };
    Ok([kind, value as i32, (value >> 32) as i32])
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Not empty: a buffer has at least a byte.
    let mut text = vec![0];
    let mut calls = Vec::new();
    for call in &arguments.calls {
        let mut words = Vec::new();
        for argument in call.split(',') {
            words.extend(encode(argument, &mut text)?);
        }
        ensure!(words.len() <= 21, "{call}: more than six arguments");
        words.resize(21, 0);
        calls.extend(words);
    }
    let gpu = Gpu::open(&arguments.platform)?;
    let program = gpu.program(SOURCE, &format!("-D CLONE={}", libc::SYS_clone))?;
    let kernel = Kernel::create(&program, "run").context("no kernel run")?;
    let count = arguments.calls.len();
    let (calls, text) = (gpu.upload(&calls)?, gpu.upload(&text)?);
    let page = gpu.upload(&[0_u8; PAGE_BYTES])?;
    let results = gpu.upload(&vec![0_u32; 2 * count])?;
    let mut launch = ExecuteKernel::new(&kernel);
    // SAFETY: the kernel's arguments, in its order and of its types.
    unsafe {
        launch.set_arg(&(count as i32)).set_arg(&calls).set_arg(&text).set_arg(&page).set_arg(&results);
    }
    launch.set_global_work_size(1);
    // SAFETY: all arguments are set, and the buffers live until the results are read.
    unsafe { launch.enqueue_nd_range(&gpu.queue) }.context("cannot enqueue the kernel")?;
    gpu.queue.finish().context("the device is lost")?;
    for halves in gpu.download(&results, 2 * count)?.chunks(2) {
        println!("{}", i64::from(halves[1]) << 32 | i64::from(halves[0]));
    }
    Ok(())
}
