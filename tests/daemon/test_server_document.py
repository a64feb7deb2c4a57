"""The API's own document says what the routes do: compared with the table, and with real answers."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import jsonschema
import pytest

from runners.api import JobState
from runnersd.server.openapi import document, schemas
from runnersd.server.routes import ROUTES, May
from serving import Served, served_test, submission

DOCUMENT = document(ROUTES)


def validator(schema: Any) -> Any:
    """Checks values against a schema of the document; closed, so that an answer with a key it does not name fails."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(whole)


def operation(method: str, path: str) -> Any:
    """What the document says of a request."""
    for template, operations in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method.lower() in operations:
            return operations[method.lower()]
    raise AssertionError(f"{method} {path} is not in the document")


def test_every_route_is_in_the_document_and_every_path_of_the_document_is_a_route() -> None:
    described = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len(described) == len(ROUTES), "a route is there twice"


def test_every_parameter_that_is_read_is_described_and_no_other() -> None:
    for route in ROUTES:
        described = operation(route.method, route.path)
        parameters = described.get("parameters", [])
        assert {one["name"] for one in parameters if one["in"] == "query"} == set(route.query.known)
        assert {one["name"] for one in parameters if one["in"] == "path"} == set(re.findall(r"{(\w+)}", route.path))
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if route.body is not None:
            assert set(body.get("properties", {})) == set(route.body.known)
        assert ("$ref" in body) == (route.document is not None)
        assert described["x-may"] == route.may


def test_references_lead_somewhere_and_every_schema_is_one() -> None:
    found = schemas()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in found
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)
    for schema in found.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_what_the_specification_asks_for_is_there() -> None:
    routes = {(route.method, route.path): route for route in ROUTES}
    for line in [
        "POST /v1/pipelines",
        "GET /v1/status",
        "GET /v1/jobs",
        "GET /v1/jobs/{id}",
        "PATCH /v1/jobs/{id}",
        "POST /v1/jobs/{id}/cancel",
        "GET /v1/jobs/{id}/logs",
        "GET /v1/gpus",
        "POST /v1/gpus/{gpu}/drain",
        "GET /v1/events",
        "GET /v1/metrics",
        "GET /v1/health",
        "GET /v1/openapi.json",
    ]:
        method, _, path = line.partition(" ")
        assert (method, path) in routes
    assert routes["GET", "/v1/jobs/{id}/logs"].may is May.OWNER
    assert all(
        route.may is not May.ANYONE
        for route in ROUTES
        if route.method != "GET" and route.path not in ("/v1/pipelines", "/v1/bookings")
    )
    assert schemas()["JobView"]["properties"]["state"]["enum"] == [state.value for state in JobState]


@served_test()
async def test_answers_are_what_the_document_says(daemon: Served) -> None:
    seen: set[tuple[str, str, str]] = set()

    async def ask(method: str, path: str, body: Any = None, **headers: str) -> Any:
        described = operation(method, path.partition("?")[0])
        answer = await daemon.ask(method, path, body, headers=headers)
        told = described["responses"].get(str(answer.status))
        if told is None:
            assert answer.status >= 400
            told = described["responses"]["default"]
        [(kind, content)] = told["content"].items()
        assert answer.headers["Content-Type"].partition(";")[0] == kind
        if "json" in kind:
            validator(content["schema"]).validate(answer.json)
        seen.add((method, described["operationId"], str(answer.status)))
        sent = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if body is not None and answer.status < 400:
            validator(sent).validate(body)
        return answer.json if "json" in kind else answer.body

    one = submission("false", job={"num_gpus": 1, "needs": [], "gpus": [0], "time_limit": "2h", "cpus": 0.5})
    await ask("POST", "/v1/pipelines", one)
    await ask("POST", "/v1/pipelines", {"pipelines": [submission("forever"), submission("true", hold=True)]})
    await ask("POST", "/v1/pipelines", {**submission("true"), "dry_run": True})
    await ask("POST", "/v1/pipelines", {"pipelines": [submission("true", "true", job={"name": "same"})]})
    await daemon.until_state(1, "failed")
    await daemon.until_state(2, "running")
    for path in (
        "/v1/status", "/v1/status?all=1&limit=2", "/v1/jobs", "/v1/jobs?limit=1", "/v1/jobs/1", "/v1/jobs/2",
        "/v1/jobs/3", "/v1/jobs/p1", "/v1/jobs/9", "/v1/gpus", "/v1/metrics", "/v1/health", "/v1/openapi.json",
        "/v1/usage", "/v1/history", "/v1/jobs/1/logs", "/v1/jobs/x/logs", "/v1/status?limit=x",
        "/v1/jobs/1/telemetry", "/v1/jobs/p1/telemetry",
        "/v1/jobs/2/telemetry?points=10&attempt=1", "/v1/jobs/2/telemetry?attempt=2",
    ):  # fmt: skip
        await ask("GET", path)
    async with daemon.session.get("http://d/v1/events") as stream:
        assert stream.headers["Content-Type"] in operation("GET", "/v1/events")["responses"]["200"]["content"]
    for method, path, body in [
        ("PATCH", "/v1/jobs/3", {"held": True, "priority": -3}),
        ("PATCH", "/v1/jobs/p3", {"held": False}),
        ("POST", "/v1/jobs/1/cancel", None),
        ("POST", "/v1/jobs/2/signal", {"signal": "CONT"}),
        ("POST", "/v1/jobs/2/cancel", {"now": True}),
        ("POST", "/v1/jobs/1/retry", None),
        ("POST", "/v1/gpus/0/drain", {"reason": "dust"}),
        ("POST", "/v1/gpus/0/undrain", None),
        ("POST", "/v1/bookings", {"gpus": 1, "for": "4h", "at": 4e9, "reason": "demo"}),
        ("POST", "/v1/bookings", {"cards": ["9"], "for": 60}),
        ("GET", "/v1/bookings", None),
        ("GET", "/v1/status", None),
        ("GET", "/v1/gpus", None),
        ("DELETE", "/v1/bookings/1", None),
        ("DELETE", "/v1/bookings/x", None),
        ("POST", "/v1/daemon/pause", {"reason": "lunch"}),
        ("POST", "/v1/daemon/resume", None),
        ("POST", "/v1/daemon/shutdown", {"now": True}),
    ]:
        await ask(method, path, body)
    asked = {identity for _, identity, status in seen if status < "400"}
    every = {operation(route.method, route.path)["operationId"] for route in ROUTES}
    assert every - asked == {"get_events"}
    await asyncio.sleep(0)


@pytest.mark.parametrize("key", ["nam", "jobs.0.comand"])
def test_the_schema_of_a_submission_knows_its_keys(key: str) -> None:
    wrong = submission("true")
    if "." in key:
        wrong["jobs"][0][key.rpartition(".")[2]] = "x"
    else:
        wrong[key] = "x"
    with pytest.raises(jsonschema.ValidationError):
        validator(DOCUMENT["components"]["schemas"]["Submission"]).validate(wrong)
