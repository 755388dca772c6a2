//! Starting a process in namespaces of its own, which the standard library cannot do: a process is in a PID namespace
//! from its first moment or never.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::ptr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};

/// A program to be started.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its file.
    pub path: &'a Path,
    /// Its arguments, without its name.
    pub arguments: &'a [&'a str],
    /// The whole of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The namespaces that it gets.
    pub namespaces: Namespaces,
    /// Directory of the control group (v2) that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which namespaces a new process gets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// None.
    Shared,
    /// PID, network, IPC and mount namespaces: what root may make without more ado.
    Own,
    /// These, in a user namespace in which the user keeps their id. Everybody may make them, if the host lets them.
    OwnWithUser,
}

impl Namespaces {
    fn flags(self) -> libc::c_int {
        let own = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWNS;
        match self {
            Namespaces::Shared => 0,
            Namespaces::Own => own,
            Namespaces::OwnWithUser => own | libc::CLONE_NEWUSER,
        }
    }
}

/// What a new process does before it runs its program; sent to its parent when it fails.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Step {
    TieToParent,
    Cgroup,
    UserNamespace,
    Mounts,
    Stdio,
    Execute,
}

const STEPS: [(Step, &str); 6] = [
    (Step::TieToParent, "cannot tie it to its parent"),
    (Step::Cgroup, "cannot put it in its control group"),
    (Step::UserNamespace, "cannot set up its user namespace"),
    (Step::Mounts, "cannot keep its mounts to itself"),
    (Step::Stdio, "cannot set its standard descriptors"),
    (Step::Execute, "cannot run it"),
];

/// Flag of `clone3`. The `libc` crate's is an `int`, which cannot hold it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts a program, in a process group of its own. It is killed when the calling thread ends. Whoever calls waits for the process, with `waitpid`.
pub fn spawn(program: &Program<'_>) -> io::Result<Pid> {
    let path = c_string(program.path.as_os_str())?;
    let mut strings = vec![path.clone()];
    for argument in program.arguments {
        strings.push(c_string(OsStr::new(argument))?);
    }
    let mut variables = Vec::new();
    for (name, value) in &program.environment {
        let mut variable = name.clone();
        variable.push("=");
        variable.push(value);
        variables.push(c_string(&variable)?);
    }
    // Above the standard three, so that none is overwritten before it has been copied.
    let mut stdio = Vec::new();
    for fd in program.stdio {
        stdio.push(fcntl_dupfd_cloexec(fd, 3)?);
    }
    let image = Image {
        path: &path,
        arguments: pointers(&strings),
        environment: pointers(&variables),
        stdio: [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()],
    };
    start(program.namespaces, program.cgroup, Some(&image))
}

/// Whether [`spawn`] can make these namespaces: tries it.
pub fn probe(namespaces: Namespaces) -> io::Result<()> {
    let pid = start(namespaces, None, None)?;
    waitpid(Some(pid), WaitOptions::empty())?;
    Ok(())
}

/// What `execve` takes. The pointers end with a null pointer.
struct Image<'a> {
    path: &'a CStr,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    stdio: [RawFd; 3],
}

fn c_string(string: &OsStr) -> io::Result<CString> {
    CString::new(string.to_owned().into_vec())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn start(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    image: Option<&Image<'_>>,
) -> io::Result<Pid> {
    let (failure, report) = pipe_with(PipeFlags::CLOEXEC)?;
    // Above the standard three too. The first one is closed here: the pipe must end with the new process's.
    let report = {
        let first = report;
        fcntl_dupfd_cloexec(&first, 3)?
    };
    // The ids stay what they are: files keep their owners.
    let maps = [geteuid().as_raw(), getegid().as_raw()].map(|id| format!("{id} {id} 1"));
    let (pid, in_cgroup) = clone(namespaces.flags(), cgroup)?;
    if pid == 0 {
        let cgroup = cgroup.filter(|_| !in_cgroup);
        // SAFETY: this is the new process, which has one thread and nothing but this to do; what it is given was made
        // before it was.
        unsafe { child(namespaces, &maps, cgroup, image, report.as_fd()) };
    }
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    drop(report);
    let mut said = [0; 8];
    let len = loop {
        match rustix::io::read(&failure, &mut said) {
            Err(rustix::io::Errno::INTR) => {}
            // Closed: by the program's start, or by the end of the process.
            result => break result.unwrap_or(0),
        }
    };
    if len < said.len() {
        return Ok(pid);
    }
    waitpid(Some(pid), WaitOptions::empty())?;
    let [step, _, _, _, error @ ..] = said;
    let what =
        STEPS.iter().find(|(known, _)| *known as u8 == step).map_or("cannot start it", |(_, what)| what);
    let cause = io::Error::from_raw_os_error(i32::from_ne_bytes(error));
    Err(io::Error::new(cause.kind(), format!("{what}: {cause}")))
}

/// A copy of this process, in new namespaces. Says whether it is in the control group, too.
///
/// `clone3` can put it there, at a fraction of the cost of moving it; but systemd (RestrictNamespaces=) and container
/// runtimes forbid it, since they cannot check its flags.
fn clone(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<(libc::pid_t, bool)> {
    if let Some(cgroup) = cgroup {
        // SAFETY: zeroes are a valid value of this structure of integers.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = flags as u64 | CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
        // SAFETY: the structure is whole and its size is right. Without CLONE_VM and a stack it is a fork: the new process
        // goes on here, in a copy of this memory, and whoever calls runs nothing there that such a fork must not.
        let result =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        if result >= 0 {
            return Ok((result as libc::pid_t, true));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(error);
        }
    }
    // SAFETY: as above; the arguments that are zero are a stack, and what only other flags use.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((result as libc::pid_t, false)) }
}

/// The new process, until it is the program.
///
/// # Safety
///
/// In a process that has just been forked, with one thread. Other threads of its parent may have held any lock then: only
/// functions that are safe in signal handlers (signal-safety(7)) are called here, and nothing is allocated.
unsafe fn child(
    namespaces: Namespaces,
    maps: &[String; 2],
    cgroup: Option<BorrowedFd<'_>>,
    image: Option<&Image<'_>>,
    report: BorrowedFd<'_>,
) -> ! {
    // SAFETY: by this function's contract.
    let Err(step) = unsafe { become_program(namespaces, maps, cgroup, image) };
    // SAFETY: reads the thread's own errno.
    let error = unsafe { *libc::__errno_location() }.to_ne_bytes();
    let said = [step as u8, 0, 0, 0, error[0], error[1], error[2], error[3]];
    // SAFETY: writes from a buffer of that length to a descriptor that is open; then ends without any clean-up, which is
    // the parent's.
    unsafe {
        libc::write(report.as_raw_fd(), said.as_ptr().cast(), said.len());
        libc::_exit(127)
    }
}

/// # Safety
///
/// As for [`child`].
unsafe fn become_program(
    namespaces: Namespaces,
    [user, group]: &[String; 2],
    cgroup: Option<BorrowedFd<'_>>,
    image: Option<&Image<'_>>,
) -> Result<std::convert::Infallible, Step> {
    // SAFETY: system calls with valid arguments that are safe in signal handlers; strings end with a zero byte, and the
    // pointers of the image point to such, with a null pointer at their end, all alive.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(Step::TieToParent);
        }
        // What it starts stays in its group, unless it may leave that. It fails for none that has just been made.
        libc::setpgid(0, 0);
        if let Some(cgroup) = cgroup {
            // The process that writes.
            if !write_file(cgroup.as_raw_fd(), c"cgroup.procs", b"0") {
                return Err(Step::Cgroup);
            }
        }
        if namespaces == Namespaces::OwnWithUser {
            let written = write_file(libc::AT_FDCWD, c"/proc/self/setgroups", b"deny")
                && write_file(libc::AT_FDCWD, c"/proc/self/uid_map", user.as_bytes())
                && write_file(libc::AT_FDCWD, c"/proc/self/gid_map", group.as_bytes());
            if !written {
                return Err(Step::UserNamespace);
            }
        }
        if namespaces != Namespaces::Shared {
            let (none, root) = (ptr::null(), c"/".as_ptr());
            if libc::mount(none, root, none, libc::MS_REC | libc::MS_SLAVE, ptr::null()) != 0 {
                return Err(Step::Mounts);
            }
            // So that /proc shows the new PID namespace. Where the host's is masked, as in containers, it stays: it shows no
            // more than before, and other processes cannot be reached by their numbers there either.
            let (kind, at) = (c"proc".as_ptr(), c"/proc".as_ptr());
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            libc::mount(kind, at, kind, flags, ptr::null());
        }
        let Some(image) = image else { libc::_exit(0) };
        for (number, fd) in image.stdio.iter().enumerate() {
            if libc::dup2(*fd, number as libc::c_int) < 0 {
                return Err(Step::Stdio);
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(image.path.as_ptr(), image.arguments.as_ptr(), image.environment.as_ptr());
        Err(Step::Execute)
    }
}

/// # Safety
///
/// None beyond [`child`]'s: it is safe in signal handlers.
unsafe fn write_file(directory: RawFd, path: &CStr, bytes: &[u8]) -> bool {
    // SAFETY: the path ends with a zero byte, and the buffer has that length.
    unsafe {
        let fd = libc::openat(directory, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        // It closes with the program's start.
        fd >= 0 && libc::write(fd, bytes.as_ptr().cast(), bytes.len()) == bytes.len() as isize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn output_of(script: &str, namespaces: Namespaces) -> io::Result<String> {
        let (mut from, to) = io::pipe()?;
        let null = File::open("/dev/null")?;
        let program = Program {
            path: Path::new("/bin/sh"),
            arguments: &["-c", script],
            environment: vec![("A".into(), "b c".into())],
            stdio: [null.as_fd(), to.as_fd(), to.as_fd()],
            namespaces,
            cgroup: None,
        };
        let pid = spawn(&program)?;
        drop(to);
        let mut said = String::new();
        from.read_to_string(&mut said)?;
        let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.unwrap();
        assert_eq!(status.exit_status(), Some(0), "{said}");
        Ok(said)
    }

    #[test]
    fn a_program_gets_its_arguments_and_environment() {
        assert_eq!(output_of("echo \"$A\"", Namespaces::Shared).unwrap(), "b c\n");
    }

    #[test]
    fn in_namespaces_it_is_the_first_process_and_has_no_network() {
        let mut tried = false;
        for namespaces in [Namespaces::Own, Namespaces::OwnWithUser] {
            if probe(namespaces).is_ok() {
                let script = "echo $$ $(id -u) $(tail -n +3 /proc/net/dev | cut -d: -f1)";
                let uid = geteuid().as_raw();
                assert_eq!(output_of(script, namespaces).unwrap(), format!("1 {uid} lo\n"));
                tried = true;
            }
        }
        if !tried {
            eprintln!("skipped: no namespaces for this user here");
        }
    }

    #[test]
    fn a_program_that_is_not_there_says_so() {
        let null = File::open("/dev/null").unwrap();
        let program = Program {
            path: Path::new("/nonexistent"),
            arguments: &[],
            environment: Vec::new(),
            stdio: [null.as_fd(); 3],
            namespaces: Namespaces::Shared,
            cgroup: None,
        };
        let error = spawn(&program).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("cannot run it"), "{error}");
    }
}
