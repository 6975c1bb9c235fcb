"""The contestants: Orderflow, its peers and the ceiling, each with its own processes, database and requests.

Every contestant has its own mongod with the same settings, so data, cache and checkpoints of one never slow another and
the CPU time of each mongod is known. Contestants that are not being measured are idle.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from tools.bench.database import BenchDatabase
from tools.bench.processes import MeasuredServer
from tools.bench.split_server import SplitServer
from tools.bench.wrk import Request
from tools.cluster.processes import ROOT, free_port

GUNICORN = (sys.executable, "-m", "gunicorn")
PEERS_CONF = "tools/bench/peers/gunicorn_conf.py"
WORKERS = 2


class Kind(StrEnum):
    """A kind of request."""

    POST = "POST /orders, whole flow"
    ONE = "GET one"
    STATUS = "GET status"
    LIST = "list of 20"


class Name(StrEnum):
    """A contestant."""

    ORDERFLOW = "orderflow"
    SPLIT = "split"
    FLASK = "flask"
    FASTAPI = "fastapi"
    HELLO = "hello"


LABELS = {
    Name.ORDERFLOW: "Orderflow",
    Name.SPLIT: "Orderflow, a process a module",
    Name.FLASK: "plain Flask",
    Name.FASTAPI: "FastAPI",
    Name.HELLO: "bare hello",
}
LEGEND = (
    "a process a module: one each for gateway, orders and payments, and RabbitMQ, whose CPU time counts as the server's · "
    "plain Flask: PyMongo, payments on a thread pool, gunicorn gthread 2 x 16 · FastAPI: PyMongo Async, payments as "
    "tasks, uvicorn 2 x uvloop · bare hello: Flask that stores nothing, gunicorn gevent x 2 · every store w=majority, "
    "journaled, on a mongod of its own"
)


@dataclass
class Contestant:
    """One server under measurement; `database` is None if it stores nothing."""

    name: str
    server: MeasuredServer | SplitServer
    database: BenchDatabase | None
    folder: Path
    requests: dict[str, Request] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerLocation:
    """The folder, the port and the database URI of a server."""

    folder: Path
    port: int
    uri: str


def orderflow(
    location: ServerLocation,
    environ: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
    root: Path = ROOT,
) -> MeasuredServer:
    """Returns Orderflow as users run it, from the checkout `root`; `environ` adds settings, `options` are arguments of gunicorn."""
    full_environ = {
        "PORT": str(location.port),
        "BIND": "127.0.0.1",
        "WEB_CONCURRENCY": str(WORKERS),
        "ORDERFLOW_DATA": str(location.folder),
        "MONGODB_URI": location.uri,
        **(environ or {}),
    }
    command = [*GUNICORN, "-c", "gunicorn.conf.py", *options]
    return MeasuredServer(command, full_environ, location.port, "/readyz", location.folder / "server.log", root)


def split(location: ServerLocation, environ: Mapping[str, str] | None = None) -> SplitServer:
    """Returns Orderflow with a process for each module."""
    return SplitServer(location.folder, {"BIND": "127.0.0.1", **(environ or {})}, location.port, location.uri)


def flask(location: ServerLocation) -> MeasuredServer:
    """Returns the plain peer: two workers of 16 threads."""
    environ = {**_peer_environ(location), "WORKER_CLASS": "gthread", "MONGODB_URI": location.uri}
    command = [*GUNICORN, "-c", PEERS_CONF, "tools.bench.peers.flask_peer:app"]
    return MeasuredServer(command, environ, location.port, "/orders/nobody", location.folder / "server.log")


def fastapi(location: ServerLocation) -> MeasuredServer:
    """Returns the asynchronous peer: two workers on uvloop and httptools."""
    command = [sys.executable, "-m", "uvicorn", "tools.bench.peers.fastapi_peer:app", "--host", "127.0.0.1"]
    command += ["--port", str(location.port), "--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--log-level", "warning"]
    return MeasuredServer(
        command, {"MONGODB_URI": location.uri}, location.port, "/orders/nobody", location.folder / "server.log"
    )


def hello(location: ServerLocation) -> MeasuredServer:
    """Returns the ceiling: Orderflow's worker class with an application that does nothing."""
    command = [*GUNICORN, "-c", PEERS_CONF, "tools.bench.peers.hello:app"]
    environ = {**_peer_environ(location), "WORKER_CLASS": "gevent"}
    return MeasuredServer(command, environ, location.port, "/hello", location.folder / "server.log")


SERVERS: dict[Name, Callable[..., MeasuredServer | SplitServer]] = {
    Name.ORDERFLOW: orderflow,
    Name.SPLIT: split,
    Name.FLASK: flask,
    Name.FASTAPI: fastapi,
    Name.HELLO: hello,
}


@contextmanager
def started(
    name: str,
    folder: Path,
    make: Callable[[ServerLocation], MeasuredServer | SplitServer],
    *,
    stores: bool = True,
    mongod: tuple[str, ...] = (),
) -> Iterator[Contestant]:
    """Runs a contestant with its mongod."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        database = stack.enter_context(BenchDatabase(folder, mongod)) if stores else None
        server = make(ServerLocation(folder, free_port(), database.uri if database else ""))
        stack.enter_context(server)
        yield Contestant(name, server, database, folder)


@contextmanager
def all_started(names: list[Name], folder: Path, settings: Mapping[str, str]) -> Iterator[list[Contestant]]:
    """Runs all contestants; `settings` are for Orderflow only."""
    with ExitStack() as stack:
        contestants = []
        for name in names:
            is_orderflow = name in (Name.ORDERFLOW, Name.SPLIT)
            make = partial(SERVERS[name], environ=settings) if is_orderflow else SERVERS[name]
            contestant = started(name, folder / name, make, stores=name != Name.HELLO)
            contestants.append(stack.enter_context(contestant))
        yield contestants


def _peer_environ(location: ServerLocation) -> dict[str, str]:
    return {"BIND": f"127.0.0.1:{location.port}", "WEB_CONCURRENCY": str(WORKERS)}
