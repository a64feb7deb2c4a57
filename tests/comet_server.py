"""A small server in place of Comet's: it takes experiments and notes what it is sent, refuses, or never answers."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CometServer(http.server.ThreadingHTTPServer):
    """Answers on `url`, as `COMET_URL_OVERRIDE` takes it; `asked` has each request's path and body."""

    daemon_threads = True

    def __init__(self, mode: str = "answer", hangs_at: str = "") -> None:
        """``mode`` is ``answer`` or ``hang``; ``hangs_at`` is the part of a path at which alone it hangs."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = mode
        self.hangs_at = hangs_at
        self.asked: list[tuple[str, bytes]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/clientlib/"

    def said(self) -> bytes:
        """All that it was sent."""
        return b"\n".join(body for _, body in self.asked)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: CometServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        self.server.asked.append((self.path, body))
        if self.server.mode == "hang" or (self.server.hangs_at and self.server.hangs_at in self.path):
            self.server.over.wait(120)
            self.close_connection = True
            return
        answer = json.dumps(_answer(self.path, self.server.url)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: `asked` has it."""


def _answer(path: str, url: str) -> dict[str, Any]:
    if "status-report" in path:
        return {"is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 60_000}
    if "logger/add/run" not in path and "logger/get/run" not in path:
        return {}
    return {
        "workspaceName": "w", "projectName": "p", "projectId": "pid", "full_ws": False, "msg": "ok", "code": 200,
        "ws_url": None, "initial_offset": 1, "throttle": False, "upload_web_asset_url_prefix": url + "u",
        "upload_web_image_url_prefix": url + "u", "upload_api_asset_url_prefix": url + "u",
        "upload_api_image_url_prefix": url + "u", "log_other_url_prefix": url + "o", "link": "http://comet.invalid/e",
        "runId": "r1", "project_id": "pid", "experimentKey": "k", "name": "n",
    }  # fmt: skip


@contextmanager
def comet_server(mode: str = "answer", hangs_at: str = "") -> Iterator[CometServer]:
    """A running one."""
    server = CometServer(mode, hangs_at)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(30)
