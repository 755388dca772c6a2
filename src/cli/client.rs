//! The tool's side of the admin socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueHint;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::api;
use crate::daemon::socket;

/// Time that the daemon has for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer in bytes: of a thousand vGPUs, a few megabytes.
const MAX_ANSWER: u64 = 64 << 20;
/// Most header fields of an answer.
const MAX_FIELDS: usize = 32;

/// Which daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The daemon's admin socket. Default: that of this user's daemon, then the system's.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,
}

/// A daemon that answers.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(target: &Target) -> anyhow::Result<Client> {
        if let Some(path) = &target.socket {
            return Ok(Client { socket: path.clone() });
        }
        let usual = usual_sockets();
        match served(&usual) {
            Some(path) => Ok(Client { socket: path.clone() }),
            None => {
                let mut tried: Vec<String> = usual.iter().map(|path| path.display().to_string()).collect();
                tried.dedup();
                bail!(
                    "no daemon answers at {} (`paragpud` starts one; --socket names another one's admin socket)",
                    tried.join(" or ")
                )
            }
        }
    }

    /// Asks for something.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask("GET", path, None)
    }

    /// Asks for something to be done.
    pub(super) fn ask<T>(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<T>
    where
        T: DeserializeOwned,
    {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.answer(method, path, &body, TIMEOUT)?;
        serde_json::from_slice(&answer).with_context(|| self.other_version())
    }

    /// Asks for something that takes a while; the answer as it comes.
    pub(super) fn get_slowly(&self, path: &str, takes: Duration) -> anyhow::Result<Vec<u8>> {
        self.answer("GET", path, "", takes + TIMEOUT)
    }

    /// What is wrong if an answer is not what it should be.
    pub(super) fn other_version(&self) -> String {
        let at = self.socket.display();
        format!("the daemon at {at} is of another version: its answer is not understood")
    }

    fn answer(&self, method: &str, path: &str, body: &str, timeout: Duration) -> anyhow::Result<Vec<u8>> {
        let at = self.socket.display();
        let answer = self.exchange(method, path, body, timeout);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(
                "this user may not connect to {at}: try as root, or as the user that paragpud runs as; its \
                 configuration's admin-group may look"
            ),
            // Whoever listens there does not like what we say.
            Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => {
                bail!("{}", self.not_http())
            }
            Err(error) => return Err(error).with_context(|| format!("no daemon answers at {at}")),
        };
        let Some((status, body)) = split(&answer) else { bail!("{}", self.not_http()) };
        if !(200..300).contains(&status) {
            match serde_json::from_slice::<api::Error>(body) {
                Ok(error) => bail!("{}", error.error),
                Err(_) => bail!("the daemon at {at} answers with status {status}"),
            }
        }
        Ok(body.to_vec())
    }

    fn exchange(&self, method: &str, path: &str, body: &str, timeout: Duration) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: paragpu\r\nContent-Type: application/json\r\nContent-Length: \
             {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn not_http(&self) -> String {
        let meant = socket::admin_path(&self.socket);
        let hint =
            if meant.exists() { format!("; did you mean {}?", meant.display()) } else { String::new() };
        format!("{} is no admin socket{hint}", self.socket.display())
    }
}

/// The admin socket of this user's daemon or of the system's, if one is there.
pub(super) fn running_daemon() -> Option<PathBuf> {
    served(&usual_sockets()).cloned()
}

fn usual_sockets() -> Vec<PathBuf> {
    let usual = [socket::default_path().ok(), Some(socket::system_path())];
    usual.into_iter().flatten().map(|path| socket::admin_path(&path)).collect()
}

/// The first at which somebody listens. Of one that is there, the request says why it may not be used.
fn served(sockets: &[PathBuf]) -> Option<&PathBuf> {
    sockets.iter().find(|path| match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    })
}

/// An answer's status and body; nothing if it is not all there.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return None };
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    Some((response.code?, answer.get(head..head.checked_add(length)?)?))
}

/// The path of a vGPU.
pub(super) fn vgpu_path(name: &str) -> String {
    let mut path = "/v1/vgpus/".to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path += &format!("%{byte:02X}");
        }
    }
    path
}

/// `key=value` arguments as JSON: `limits.builds=2` is a key in a table.
pub(super) fn keys(assignments: &[String]) -> anyhow::Result<Value> {
    let mut keys = serde_json::Map::new();
    for assignment in assignments {
        let Some((key, value)) = assignment.split_once('=') else {
            bail!("{assignment:?} is not KEY=VALUE, such as weight=200 or limits.contexts=4");
        };
        match key.split_once('.') {
            None => keys.insert(key.to_owned(), read_value(key, value)),
            Some((table, key)) => {
                let table = keys.entry(table).or_insert_with(|| Value::Object(serde_json::Map::new()));
                let Value::Object(table) = table else {
                    bail!("{assignment:?}: that is a table and a value")
                };
                table.insert(key.to_owned(), read_value(key, value))
            }
        };
    }
    Ok(Value::Object(keys))
}

/// Numbers are numbers, but for permissions, which are octal text; so are true and false what they are; lists have commas;
/// "default" is `null`.
fn read_value(key: &str, value: &str) -> Value {
    match key {
        "devices" => value.split(',').filter(|device| !device.is_empty()).collect(),
        "mode" | "socket" => value.into(),
        _ if value == "default" => Value::Null,
        _ => match (value.parse::<i64>(), value.parse::<f64>(), value.parse::<bool>()) {
            (Ok(integer), ..) => integer.into(),
            (_, Ok(number), _) if number.is_finite() => number.into(),
            (.., Ok(truth)) => truth.into(),
            _ => value.into(),
        },
    }
}

/// The socket's path from the root on: the daemon has another working directory.
pub(super) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    #[test]
    fn assignments_are_typed_as_the_configuration_wants_them() {
        let given = [
            "weight=200",
            "cap=12.5",
            "memory=2 GiB",
            "limits.builds=2",
            "limits.staging=none",
            "mode=0660",
            "devices=a,b/1",
            "eviction.limit-s=5",
            "owner=bob",
            "share=default",
            "share-builds=true",
        ];
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        let expected = json!({
            "weight": 200, "cap": 12.5, "memory": "2 GiB", "limits": {"builds": 2, "staging": "none"},
            "mode": "0660", "devices": ["a", "b/1"], "eviction": {"limit-s": 5}, "owner": "bob", "share": null,
            "share-builds": true
        });
        assert_eq!(keys(&given).unwrap(), expected);
        assert!(keys(&["weight".to_owned()]).is_err());
        assert!(keys(&["limits=1".to_owned(), "limits.builds=2".to_owned()]).is_err());
    }

    #[test]
    fn a_socket_that_nobody_serves_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = ["none", "left", "served"].map(|name| directory.path().join(name));
        let _served = UnixListener::bind(&sockets[2]).unwrap();
        drop(UnixListener::bind(&sockets[1]).unwrap());
        assert_eq!(served(&sockets), Some(&sockets[2]));
        assert_eq!(served(&sockets[..2]), None);
    }

    #[test]
    fn names_are_one_part_of_a_path() {
        assert_eq!(vgpu_path("a.b-1"), "/v1/vgpus/a.b-1");
        assert_eq!(vgpu_path("a/../b c"), "/v1/vgpus/a%2F..%2Fb%20c");
    }

    #[test]
    fn only_whole_answers_count() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Some((200, b"{}".as_slice())));
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"), None);
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(split(b""), None);
    }
}
