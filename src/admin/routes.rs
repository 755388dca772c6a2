//! What a request asks for, and who may ask.

use std::sync::Arc;
use std::time::Duration;

use log::info;
use serde_json::{Map, Value};

use super::http::{JSON, Request, Response};
use super::{api, metrics};
use crate::registry::mailbox::{Mailbox, View};
use crate::registry::{Change, Refusal};
use crate::sched::Scheduler;

/// Whoever is asked.
#[derive(Clone, Debug)]
pub(super) struct Behind {
    pub(super) mailbox: Mailbox,
    pub(super) scheduler: Arc<Scheduler>,
}

/// What the one who asks may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Change,
    /// Look.
    Read,
    /// Fetch metrics, and know nothing else.
    Metrics,
}

/// What is asked of a vGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Pause,
    Resume,
    Kill,
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Version,
    Vgpus,
    Vgpu(String),
    Deed(String, Deed),
    Devices,
    Trace,
    Metrics,
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        Some(match parts.as_slice() {
            ["metrics"] => Route::Metrics,
            ["v1", "version"] => Route::Version,
            ["v1", "devices"] => Route::Devices,
            ["v1", "trace"] => Route::Trace,
            ["v1", "vgpus"] => Route::Vgpus,
            ["v1", "vgpus", name] => Route::Vgpu(decode(name)?),
            ["v1", "vgpus", name, "pause"] => Route::Deed(decode(name)?, Deed::Pause),
            ["v1", "vgpus", name, "resume"] => Route::Deed(decode(name)?, Deed::Resume),
            ["v1", "vgpus", name, "kill"] => Route::Deed(decode(name)?, Deed::Kill),
            _ => return None,
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Vgpu(_) => "GET, PUT, PATCH, DELETE",
            Route::Deed(..) => "POST",
            _ => "GET",
        }
    }
}

/// The names of vGPUs may hold whatever the operator put before their numbers.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

/// Does what is asked, if it may be. What takes long ends early if nobody `is_there` any more.
pub(super) fn respond(
    request: &Request,
    access: Access,
    behind: &Behind,
    is_there: impl Fn() -> bool,
) -> Response {
    let mailbox = &behind.mailbox;
    let Some(route) = Route::of(&request.path) else {
        return Response::error(404, "there is nothing at this path; docs/admin-api.md lists what there is");
    };
    if access == Access::Metrics && route != Route::Metrics {
        return Response::error(403, "here are metrics only, at /metrics; the admin socket has the rest");
    }
    let method = request.method.as_str();
    if !route.methods().split(", ").any(|possible| possible == method) {
        let error = format!("{method} is not possible here; possible: {}", route.methods());
        return Response { allow: Some(route.methods()), ..Response::error(405, &error) };
    }
    if method != "GET" && access != Access::Change {
        return Response::error(403, "only root and the user that paragpud runs as may change anything");
    }
    let answer = match (method, route) {
        (_, Route::Version) => Ok(Response::json(
            200,
            &api::Version {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                api: api::VERSION,
                pid: std::process::id(),
            },
        )),
        (_, Route::Vgpus) => mailbox.view().map(|view| {
            Response::json(200, &api::Vgpus { vgpus: view.vgpus.iter().map(api::Vgpu::from).collect() })
        }),
        (_, Route::Devices) => mailbox.view().map(|view| {
            let devices = view.devices.iter().map(api::Device::from).collect();
            Response::json(200, &api::Devices { devices })
        }),
        (_, Route::Trace) => Ok(trace(&behind.scheduler, &request.query, is_there)),
        (_, Route::Metrics) => mailbox.view().map(metrics_of),
        ("GET", Route::Vgpu(name)) => shown(mailbox, &name, 200),
        ("PUT", Route::Vgpu(name)) => match keys(&request.body) {
            Ok(keys) => {
                let added = mailbox.change(Change::Add(name.clone(), keys));
                added.and_then(|()| shown(mailbox, &name, 201))
            }
            Err(response) => Ok(response),
        },
        ("PATCH", Route::Vgpu(name)) => match keys(&request.body) {
            Ok(keys) => {
                let changed = mailbox.change(Change::Set(name.clone(), keys));
                changed.and_then(|()| shown(mailbox, &name, 200))
            }
            Err(response) => Ok(response),
        },
        (_, Route::Vgpu(name)) => {
            let removed = mailbox.change(Change::Remove(name.clone()));
            removed.map(|()| Response::json(200, &serde_json::json!({ "removed": name })))
        }
        (_, Route::Deed(name, Deed::Kill)) => {
            let killed = mailbox.kill(&name);
            killed.map(|connections| Response::json(200, &serde_json::json!({ "connections": connections })))
        }
        (_, Route::Deed(name, deed)) => {
            let changed = mailbox.change(Change::Pause(name.clone(), deed == Deed::Pause));
            changed.and_then(|()| shown(mailbox, &name, 200))
        }
    };
    let response = answer.unwrap_or_else(|refusal| refused(&refusal));
    if method != "GET" {
        info!("admin: {method} {}: {}", crate::guest_log::printable(&request.path), response.status);
    }
    response
}

fn trace(scheduler: &Scheduler, query: &str, is_there: impl Fn() -> bool) -> Response {
    let seconds = query.strip_prefix("seconds=").and_then(|seconds| seconds.parse::<f64>().ok());
    let Some(seconds) = seconds.filter(|seconds| api::TRACE_SECONDS.contains(seconds)) else {
        let (least, most) = api::TRACE_SECONDS.into_inner();
        let error = format!("say for how long, as ?seconds=5: from {least} to {most} seconds");
        return Response::error(400, &error);
    };
    info!("admin: a timeline of {seconds} s is recorded");
    match scheduler.trace(Duration::from_secs_f64(seconds), is_there) {
        Ok(trace) => Response { status: 200, content_type: JSON, allow: None, body: trace.json },
        Err(error) => Response::error(409, &error.to_string()),
    }
}

fn metrics_of(view: View) -> Response {
    match metrics::encode(view) {
        Ok(body) => Response { status: 200, content_type: metrics::CONTENT_TYPE, allow: None, body },
        Err(error) => Response::error(500, &error.to_string()),
    }
}

fn shown(mailbox: &Mailbox, name: &str, status: u16) -> Result<Response, Refusal> {
    let view = mailbox.view()?;
    match view.vgpus.iter().find(|vgpu| vgpu.name == name) {
        Some(vgpu) => Ok(Response::json(status, &api::Vgpu::from(vgpu))),
        None => {
            let names = view.vgpus.into_iter().take(20).map(|vgpu| vgpu.name).collect();
            Err(Refusal::NoVgpu(name.to_owned(), names))
        }
    }
}

fn keys(body: &[u8]) -> Result<Map<String, Value>, Response> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(Response::error(400, "the body must be a JSON object of a vGPU's keys")),
        Err(error) => {
            Err(Response::error(400, &format!("the body must be a JSON object of a vGPU's keys: {error}")))
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::NoVgpu(..) => 404,
        Refusal::Taken(_) | Refusal::Host(_) => 409,
        Refusal::Wrong(_) => 400,
        Refusal::NoAnswer => 503,
    };
    let field = match refusal {
        Refusal::Wrong(problems) => problems.iter().next().map(|problem| {
            // Of vGPUs that are checked together, keys carry the name.
            let key = problem.key.strip_prefix("vgpu.").and_then(|key| key.rsplit_once('.'));
            key.map_or(problem.key.clone(), |(_, key)| key.to_owned())
        }),
        _ => None,
    };
    Response::json(status, &api::Error { error: refusal.to_string(), field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_one_thing_or_nothing() {
        let vgpu = |name: &str| Some(Route::Vgpu(name.to_owned()));
        assert_eq!(Route::of("/v1/vgpus/web"), vgpu("web"));
        assert_eq!(Route::of("/v1/vgpus/a%20b%2Fc"), vgpu("a b/c"));
        assert_eq!(Route::of("/v1/trace"), Some(Route::Trace));
        assert_eq!(Route::of("/v1/vgpus/a/kill"), Some(Route::Deed("a".to_owned(), Deed::Kill)));
        for path in [
            "",
            "/",
            "v1",
            "/v2/vgpus",
            "/v1/vgpus/",
            "/v1/vgpus/a/",
            "/v1/vgpus/%",
            "/v1/vgpus/%+1",
            "/v1/vgpus/%ff",
            "//metrics",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
