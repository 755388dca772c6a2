//! One HTTP/1.1 request and its answer, within a deadline.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use serde_json::json;

/// Longest head of a request in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most header fields.
const MAX_FIELDS: usize = 64;
/// Longest body in bytes: a vGPU's settings have a few hundred.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// Time for all of a request to arrive, and for its answer to be taken.
const DEADLINE: Duration = Duration::from_secs(10);
/// What is read and thrown away after an answer, so that who sent too much gets the answer and not a reset.
const MAX_LEFT_OVER: usize = 1024 * 1024;
const LEFT_OVER_TIME: Duration = Duration::from_secs(1);

/// What somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// What follows the `?`; may be empty.
    pub(super) query: String,
    pub(super) body: Vec<u8>,
}

/// What it is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Methods that are possible, where the one that was asked for is not.
    pub(super) allow: Option<&'static str>,
    pub(super) body: String,
}

/// What JSON is called.
pub(super) const JSON: &str = "application/json";

impl Response {
    pub(super) fn json(status: u16, value: &impl serde::Serialize) -> Response {
        match serde_json::to_string(value) {
            Ok(body) => Response { status, content_type: JSON, allow: None, body: body + "\n" },
            Err(error) => Response::error(500, &error.to_string()),
        }
    }

    pub(super) fn error(status: u16, error: &str) -> Response {
        let body = json!({ "error": error }).to_string() + "\n";
        Response { status, content_type: JSON, allow: None, body }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            201 => "Created",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is answered with this.
    Refused(Response),
    /// The other side is gone.
    Gone(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        if error.kind() == io::ErrorKind::TimedOut {
            let seconds = DEADLINE.as_secs();
            let message = format!("the request did not arrive within {seconds} s");
            return ReadError::Refused(Response::error(408, &message));
        }
        ReadError::Gone(error)
    }
}

fn refused<T>(status: u16, error: &str) -> Result<T, ReadError> {
    Err(ReadError::Refused(Response::error(status, error)))
}

/// A connection for one request.
#[derive(Debug)]
pub(super) struct Exchange<S> {
    stream: S,
    deadline: Instant,
}

impl<S: Read + Write + AsFd> Exchange<S> {
    /// The time for the request begins now.
    pub(super) fn new(stream: S) -> Exchange<S> {
        Exchange { stream, deadline: Instant::now() + DEADLINE }
    }

    /// Takes the request.
    pub(super) fn read(&mut self) -> Result<Request, ReadError> {
        ioctl_fionbio(&self.stream, true).map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        let (mut request, length, head) = loop {
            // Whoever sends byte by byte has it looked at again each time: the cap bounds that.
            if let Some(parsed) = parse_head(&bytes)? {
                break parsed;
            }
            if bytes.len() >= MAX_HEAD {
                return refused(431, "the head of the request is too long");
            }
            self.read_some(&mut bytes, MAX_HEAD)?;
        };
        let end = head + length;
        while bytes.len() < end {
            self.read_some(&mut bytes, end)?;
        }
        request.body = bytes[head..end].to_vec();
        Ok(request)
    }

    fn read_some(&mut self, bytes: &mut Vec<u8>, most: usize) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        let room = buffer.len().min(most - bytes.len());
        loop {
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    bytes.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(error) => self.wait(error, PollFlags::IN)?,
            }
        }
    }

    /// False if nobody is there for an answer any more. One who only sends nothing more is.
    pub(super) fn is_there(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::HUP | PollFlags::ERR;
        !matches!(poll(&mut fds, Some(&now)), Ok(1..) if fds[0].revents().intersects(gone))
    }

    /// Gives the answer.
    pub(super) fn write(&mut self, response: &Response) -> io::Result<()> {
        self.deadline = Instant::now() + DEADLINE;
        ioctl_fionbio(&self.stream, true)?;
        let Response { status, content_type, allow, body } = response;
        let allow = allow.map(|methods| format!("Allow: {methods}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: \
             close\r\n\r\n",
            response.reason(),
            body.len()
        );
        let bytes = [head.as_bytes(), body.as_bytes()].concat();
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => left = &left[count..],
                Err(error) => self.wait(error, PollFlags::OUT)?,
            }
        }
        let _gone = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        self.deadline = Instant::now() + LEFT_OVER_TIME;
        let mut left_over = Vec::new();
        while left_over.len() < MAX_LEFT_OVER && self.read_some(&mut left_over, MAX_LEFT_OVER).is_ok() {}
        Ok(())
    }

    /// After `error`: waits until it may go better, but not beyond the deadline.
    fn wait(&self, error: io::Error, events: PollFlags) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(error),
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.stream, events)], Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The request without its body, that one's length, and where it begins; nothing if the head is not all there.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, ReadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return refused(431, "there are too many header fields"),
        Err(error) => return refused(400, &format!("this is no HTTP/1.1 request: {error}")),
    };
    let mut length = None;
    for field in parsed.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return refused(501, "send the body with Content-Length, not in chunks");
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            // Two lengths are two opinions of where a request ends.
            let text = std::str::from_utf8(field.value).ok().filter(|_| length.is_none());
            let digits = text.filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
            length = match digits.and_then(|digits| digits.parse::<usize>().ok()) {
                Some(length) => Some(length),
                None => return refused(400, "Content-Length must be one number"),
            };
        }
    }
    let length = length.unwrap_or(0);
    if length > MAX_BODY {
        return refused(413, &format!("the body is too long: at most {MAX_BODY} bytes"));
    }
    let path = parsed.path.unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
    };
    Ok(Some((request, length, head)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};
    use std::os::unix::net::UnixStream;

    fn ask(bytes: &[u8]) -> Result<Request, ReadError> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(bytes).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        Exchange::new(theirs).read()
    }

    fn status(bytes: &[u8]) -> u16 {
        match ask(bytes) {
            Err(ReadError::Refused(response)) => response.status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_read_with_its_body_and_its_query() {
        let request =
            ask(b"PUT /v1/vgpus/a?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}rest").unwrap();
        let expected = Request {
            method: "PUT".to_owned(),
            path: "/v1/vgpus/a".to_owned(),
            query: "x=1".to_owned(),
            body: b"{}".to_vec(),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn what_is_too_long_or_no_request_is_answered() {
        assert_eq!(status(b"hello\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n"), 413);
        assert_eq!(status(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD));
        assert_eq!(status(long.as_bytes()), 431);
        let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(status(fields.as_bytes()), 431);
        assert!(matches!(ask(b"GET / HTTP/1.1\r\n"), Err(ReadError::Gone(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ask(&bytes);
            let _ = ask(&[b"POST /v1 HTTP/1.1\r\nContent-Length: 5\r\n".as_slice(), &bytes].concat());
        }
    }
}
