"""The API's own document, OpenAPI 3.1: made of the route table, and the shapes of `runners.api` and `runners.spec`."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import runners
from runners import api
from runners.pipeline.schema import JOB_KEYS
from runners.spec import JobSpec

if TYPE_CHECKING:
    from runnersd.server.routes import Route

Schema = dict[str, Any]

_VIEWS = (
    api.ReasonView,
    api.JobView,
    api.MeasureView,
    api.CardSummaryView,
    api.ProcessSummaryView,
    api.SummaryView,
    api.AttemptView,
    api.CardSeriesView,
    api.ProcessSeriesView,
    api.TelemetryView,
    api.XidView,
    api.EventView,
    api.AheadJobView,
    api.AheadView,
    api.AdviceView,
    api.EffectView,
    api.ForeseenView,
    api.JobDetailView,
    api.GpuProcessView,
    api.IntruderView,
    api.NearView,
    api.DrainView,
    api.KeptView,
    api.GpuView,
    api.BookingView,
    api.DaemonView,
    api.StatusView,
    api.PastIntruderView,
    api.PastAttemptView,
    api.PastJobView,
    api.CardChangeView,
    api.HistoryView,
    api.UsageSums,
    api.UsageRow,
    api.UsageView,
)
_QUANTITY: Schema = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}
_WORDS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
#: Keys that may be written in more ways than they are kept.
_WRITTEN: Mapping[str, Schema] = {
    **dict.fromkeys(("gpu_memory", "memory", "shm_size", "time_limit", "grace", "retry_delay", "begin"), _QUANTITY),
    **dict.fromkeys(("command", "script", "config"), _WORDS),
    "gpu_capability": {"type": ["string", "number", "null"]},
    "gpus": {"anyOf": [{"type": "array"}, {"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    "notify": {"type": ["string", "object", "null"]},
    "ports": {"anyOf": [{"type": "array"}, {"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    "needs": {"anyOf": [{"type": "array"}, {"type": "string"}, {"type": "object"}, {"type": "null"}]},
}


def document(routes: Iterable[Route]) -> Schema:
    """The whole document."""
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "runnersd",
            "version": runners.__version__,
            "description": "Over the daemon's Unix socket. Who asks is what the kernel says of the connection. Times "
            "are Unix seconds, sizes bytes, durations seconds; readers ignore keys they do not know.",
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    }


def schemas() -> dict[str, Schema]:
    """Every named shape."""
    found = {view.__name__: _typed_dict(view) for view in _VIEWS}
    states = [state.value for state in api.JobState]
    for name in ("JobView", "JobDetailView", "AttemptView"):
        found[name]["properties"]["state"] = {"type": "string", "enum": states}
    found["GpuView"]["properties"]["state"] = {
        "type": "string",
        "enum": ["free", "reserved", "shared", "foreign", "drained", "lost"],
    }
    jobs = {"type": "array", "items": _ref("JobView")}
    bookings = {"bookings": {"type": "array", "items": _ref("BookingView")}}
    maybe_id = {"type": ["integer", "null"]}
    named = _object({"id": maybe_id, "name": {"type": "string"}})
    named["properties"] = {**found["ForeseenView"]["properties"], **named["properties"]}  # the rest in a dry run
    one = _object({"pipeline": {"type": ["string", "null"]}, "jobs": {"type": "array", "items": named}})
    return {
        **found,
        "Jobs": _object({"jobs": jobs}),
        "JobPage": _object({"jobs": jobs, "next": maybe_id}),
        "JobDetails": {"anyOf": [_ref("JobDetailView"), _ref("Jobs")]},
        "Effects": _object({"dry_run": {"const": True}, "effects": {"type": "array", "items": _ref("EffectView")}}),
        "ChangeAnswer": {"anyOf": [_ref("JobView"), _ref("Jobs"), _ref("Effects")]},
        "JobOrJobs": {"anyOf": [_ref("JobView"), _ref("Jobs")]},
        "GpuList": _object({"gpus": {"type": "array", "items": _ref("GpuView")}, **bookings}),
        "BookingList": _object(bookings),
        "Health": _object({"status": {"type": "string", "const": "ok"}}),
        "Paused": _object({"paused": {"type": ["string", "null"]}}),
        "Stopping": _object({"status": {"type": "string"}, "jobs": {"type": "integer"}}),
        "AcceptedPipeline": one,
        "Accepted": {
            "anyOf": [
                _ref("AcceptedPipeline"),
                _object({"pipelines": {"type": "array", "items": _ref("AcceptedPipeline")}}),
            ]
        },
        "Job": _job(),
        "Pipeline": _pipeline(),
        "Submission": _submission(),
        "Changes": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "held": {"type": "boolean"},
                "dry_run": {"type": "boolean", "description": "say what it would do to others; change nothing"},
                **_job()["properties"],
                "env": {
                    "description": "merged: sets these variables, takes away those that are null",
                    "type": ["object", "null"],
                    "additionalProperties": {"type": ["string", "null"]},
                },
            },
        },
        "Problem": _problem(),
    }


# -- requests ----------------------------------------------------------------------------------------------------------


def _job() -> Schema:
    hints = get_type_hints(JobSpec)
    known = {field.name for field in fields(JobSpec)}
    properties = {
        name: _WRITTEN[name] if name in _WRITTEN else _of_type(hints[name]) if name in known else {}
        for name in JOB_KEYS
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _pipeline() -> Schema:
    strings = {"type": "object", "additionalProperties": {"type": "string"}}
    barrier = _object({"first": {"type": "integer"}, "last": {"type": "integer"}})
    barrier["properties"]["on"] = {"type": "string", "enum": ["success", "finished"]}
    id = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^p[0-9]+$"}]}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs", "cwd"],
        "properties": {
            "name": {"type": "string"},
            "num_jobs": {"type": "integer", "minimum": 1},
            "defaults": {"type": ["object", "null"]},
            "jobs": {"type": "array", "minItems": 1, "items": _ref("Job")},
            "barriers": {"type": "array", "items": barrier},
            "items": {"type": "array", "items": {"type": "string"}},
            "cwd": {"type": "string", "pattern": "^/"},
            "env": strings,
            "umask": {"type": "integer", "minimum": 0, "maximum": 0o777},
            "after": {"type": "array", "items": id},
            "hold": {"type": "boolean"},
            "priority": {"type": ["integer", "null"], "minimum": -100, "maximum": 100},
        },
    }


def _submission() -> Schema:
    dry_run = {"type": "boolean", "description": "queue nothing: check it, and say when its jobs would start"}
    one = _pipeline()
    one["properties"]["dry_run"] = dry_run
    several = _object({"pipelines": {"type": "array", "minItems": 1, "items": _ref("Pipeline")}})
    several["properties"]["dry_run"] = dry_run
    return {"anyOf": [one, several]}


# -- operations --------------------------------------------------------------------------------------------------------


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{route.method} {route.path.removeprefix('/v1/')}").strip("_").lower(),
        "summary": route.about,
        "x-may": route.may.value,
        "responses": {str(status): _answer(kind) for status, kind in route.answers.items()},
    }
    operation["responses"]["default"] = {
        "description": "A problem document (RFC 9457).",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    in_query = [
        {"name": one.name, "in": "query", "description": one.about, "schema": _with_default(one.schema, one.default)}
        for one in route.query.known.values()
    ]
    in_header = {"Submission": ["Idempotency-Key"]}.get(route.document or "", [])
    in_header += ["Last-Event-ID"] if route.path == "/v1/events" else []
    headers = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in in_header]
    if in_path or in_query or headers:
        operation["parameters"] = [*in_path, *in_query, *headers]
    if route.document is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(route.document)}}}
    elif route.body is not None and route.body.known:
        properties = {
            one.name: {**_with_default(one.schema, one.default), "description": one.about}
            for one in route.body.known.values()
        }
        schema = {"type": "object", "additionalProperties": False, "properties": properties}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _with_default(schema: Mapping[str, Any], default: Any) -> Schema:
    return dict(schema) if default is None else {**schema, "default": default}


def _answer(kind: str) -> Schema:
    if "/" in kind:
        return {"description": kind, "content": {kind: {}}}
    schema = {"type": "object"} if kind == "object" else _ref(kind)
    return {"description": kind, "content": {"application/json": {"schema": schema}}}


# -- types -------------------------------------------------------------------------------------------------------------


def _typed_dict(view: Any) -> Schema:
    hints = get_type_hints(view, include_extras=True)
    properties = {}
    required = []
    for name, hint in hints.items():
        if get_origin(hint) is NotRequired:
            [hint] = get_args(hint)
        else:
            required.append(name)
        properties[name] = _of_type(hint)
    return {"type": "object", "properties": properties, "required": required}


_PLAIN: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _of_type(hint: Any) -> Schema:
    """The schema of a type as the shapes use them."""
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is Any:
        return {}
    if is_typeddict(hint):
        return _ref(hint.__name__)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        if all(one in _PLAIN for one in arguments):
            return {"type": [_PLAIN[one] for one in arguments]}
        return {"anyOf": [_of_type(one) for one in arguments]}
    if origin in (list, tuple):
        return {"type": "array", "items": _of_type(arguments[0])}
    if origin is not None and issubclass(_class(origin), Mapping):
        return {"type": "object", "additionalProperties": _of_type(arguments[1])}
    return {"enum": list(arguments)}  # a Literal


def _class(origin: Any) -> type:
    return origin if isinstance(origin, type) else type(None)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _problem() -> Schema:
    text = {"type": "string"}
    one = {
        "type": "object",
        "required": ["path", "message"],
        "properties": {"path": text, "message": text, "file": text, "line": {"type": "integer"}},
    }
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": text,
            "problems": {"type": "array", "items": one},
        },
    }
