"""Every error that leaves the daemon, as an RFC 9457 problem document. The one place where errors become answers."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web

from runners.errors import InvalidPipeline, RunnersError, Unavailable
from runnersd.in_thread import NoThread

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
#: What a client is told to wait, in seconds, before it tries again after a 503.
RETRY_AFTER = "2"


class MethodNotAllowed(RunnersError):
    """The path exists, and takes other methods."""

    code = "method-not-allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: list[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"cannot {method} {path}: it takes {self.allowed}")


class TooSlow(RunnersError):
    """The request did not arrive in time."""

    code = "too-slow"
    status = 408


def document(status: int, code: str, detail: str, problems: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A problem document. ``problems`` are the mistakes in a pipeline, each with its path and message."""
    title = code.replace("-", " ")
    body: dict[str, Any] = {
        "type": f"about:blank#{code}",
        "title": title[:1].upper() + title[1:],
        "status": status,
        "detail": detail,
        "code": code,
    }
    if problems is not None:
        body["problems"] = problems
    return body


def of_error(error: RunnersError) -> dict[str, Any]:
    """The problem document of an error that callers may see."""
    detail = str(error)
    if not isinstance(error, InvalidPipeline):
        return document(error.status, error.code, detail)
    listed = [
        {"path": one.path, "message": one.message}
        | ({"file": one.file} if one.file else {})
        | ({"line": one.line} if one.line else {})
        for one in error.problems
    ]
    # The exception's text repeats its problems below its own sentence; they travel apart.
    sentence = detail.removesuffix("\n".join(map(str, error.problems))).rstrip("\n")
    return document(error.status, error.code, sentence or "cannot submit: the pipeline is wrong", listed)


def answer(body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    """The HTTP response that carries a problem document."""
    return web.Response(
        body=json.dumps(body).encode(), status=body["status"], content_type=CONTENT_TYPE, headers=headers
    )


def response(error: Exception, *, method: str, path: str) -> web.Response:
    """What to answer to an exception. One that no caller could have caused is logged with its traceback: our bug."""
    if isinstance(error, MethodNotAllowed):
        return answer(of_error(error), {"Allow": error.allowed})
    if isinstance(error, RunnersError):
        return answer(of_error(error), {"Retry-After": RETRY_AFTER} if error.status == 503 else None)
    if isinstance(error, NoThread):
        unavailable = Unavailable("cannot answer now: the machine has no room for one more thread; try again")
        return answer(of_error(unavailable), {"Retry-After": RETRY_AFTER})
    log.error("request failed", exc_info=error, extra={"method": method, "path": path})
    detail = "cannot answer: the daemon failed; its log has the traceback"
    return answer(document(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail))
