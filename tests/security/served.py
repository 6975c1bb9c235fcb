"""A server as it is run, with one worker, for tests that attack it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.security.surface import BODIES
from tools.cluster.processes import free_port

ROOT = Path(__file__).parents[2]
# How long an answer may take before the server counts as stopped, on a machine that is busy with much else.
PATIENCE = 60


@contextmanager
def served(mongodb_uri: str, mongo: Any, folder: Path, **environ: str) -> Iterator[int]:
    """The port of a server; it must end well, its worker never be killed, and its log hold no traceback and no SECRET."""
    name, port = f"test_{uuid4().hex}", free_port()
    environ = {
        **os.environ,
        "MONGODB_URI": mongodb_uri,
        "MONGODB_DATABASE": name,
        "ORDERFLOW_DATA": str(folder / "data"),
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "error",
        "REQUEST_DEADLINE": "10",  # A busy machine may make a command slow.
        **environ,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            _wait_until_ready(port)
            yield port
        finally:
            process.terminate()
            status = process.wait(60)
            log.seek(0)
            told = log.read()
            mongo.drop_database(name)
    assert status == 0
    assert "Traceback" not in told, told
    assert "SECRET" not in told
    assert "WORKER TIMEOUT" not in told, told


def get(port: int, address: str, source: str = "127.0.0.1", **headers: str) -> HTTPResponse:
    """An answer, read to its end, over a connection of its own from an address of this machine."""
    return _ask(port, source, "GET", address, headers=headers)[0]


def _ask(port: int, source: str, *request: Any, **more: Any) -> tuple[HTTPResponse, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))) as connection:
        connection.request(*request, **more)
        answer = connection.getresponse()
        return answer, answer.read()


def settled_order(port: int, **headers: str) -> str:
    """Place an order and wait until it is paid; its status."""
    body = json.dumps({**BODIES["POST", "/orders"], "userId": "ada"})
    headers = {**headers, "Content-Type": "application/json"}
    answer, told = _ask(port, "127.0.0.1", "POST", "/orders", body=body, headers=headers)
    assert answer.status == 201, told
    order_id, status = json.loads(told)["created"]["id"], "Processing"
    while status == "Processing":
        status = json.loads(_ask(port, "127.0.0.1", "GET", f"/orders/status/{order_id}", headers=headers)[1])[
            "orderStatus"
        ]
    return status


def connect(port: int, data: bytes, source: str = "127.0.0.1") -> socket.socket:
    """A connection over which something has been sent."""
    opened = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
    opened.sendall(data)
    return opened


def _wait_until_ready(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            if get(port, "/readyz").status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("never ready")
