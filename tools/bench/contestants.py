"""Who takes part: Orderflow, its peers and the ceiling, each with processes, database and requests of its own.

Every contestant has a mongod of its own, all started alike: data, cache and checkpoints of one never burden another,
and mongod's CPU time can be told apart. Those who are not being measured idle, which costs far less than sharing.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from tools.bench.apart import Apart
from tools.bench.base import Base
from tools.bench.processes import Server
from tools.bench.wrk import Request
from tools.cluster.servers import free_port

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
    APART = "apart"
    FLASK = "flask"
    FASTAPI = "fastapi"
    HELLO = "hello"


LABELS = {
    Name.ORDERFLOW: "Orderflow",
    Name.APART: "Orderflow, a process a module",
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
    """One who runs; `base` is None where nothing is stored."""

    name: str
    server: Server | Apart
    base: Base | None
    folder: Path
    requests: dict[str, Request] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a server shall run: its folder, its port, its database's URI."""

    folder: Path
    port: int
    uri: str


def orderflow(place: Place, more: Mapping[str, str] | None = None, options: tuple[str, ...] = ()) -> Server:
    """Orderflow as users run it; `more` is environment, `options` are gunicorn's."""
    environ = {
        "PORT": str(place.port),
        "BIND": "127.0.0.1",
        "WEB_CONCURRENCY": str(WORKERS),
        "ORDERFLOW_DATA": str(place.folder),
        "MONGODB_URI": place.uri,
        **(more or {}),
    }
    command = [*GUNICORN, "-c", "gunicorn.conf.py", *options]
    return Server(command, environ, place.port, "/readyz", place.folder / "server.log")


def apart(place: Place, more: Mapping[str, str] | None = None) -> Apart:
    """Orderflow with its modules in processes of their own."""
    return Apart(place.folder, {"BIND": "127.0.0.1", **(more or {})}, place.port, place.uri)


def flask(place: Place) -> Server:
    """The plain peer: two workers of 16 threads."""
    environ = {**_peer(place), "WORKER_CLASS": "gthread", "MONGODB_URI": place.uri}
    command = [*GUNICORN, "-c", PEERS_CONF, "tools.bench.peers.flask_peer:app"]
    return Server(command, environ, place.port, "/orders/nobody", place.folder / "server.log")


def fastapi(place: Place) -> Server:
    """The asynchronous peer: two workers on uvloop and httptools."""
    command = [sys.executable, "-m", "uvicorn", "tools.bench.peers.fastapi_peer:app", "--host", "127.0.0.1"]
    command += ["--port", str(place.port), "--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--log-level", "warning"]
    return Server(command, {"MONGODB_URI": place.uri}, place.port, "/orders/nobody", place.folder / "server.log")


def hello(place: Place) -> Server:
    """The ceiling: the worker class of Orderflow, and nothing to do."""
    command = [*GUNICORN, "-c", PEERS_CONF, "tools.bench.peers.hello:app"]
    environ = {**_peer(place), "WORKER_CLASS": "gevent"}
    return Server(command, environ, place.port, "/hello", place.folder / "server.log")


SERVERS: dict[Name, Callable[..., Server | Apart]] = {
    Name.ORDERFLOW: orderflow,
    Name.APART: apart,
    Name.FLASK: flask,
    Name.FASTAPI: fastapi,
    Name.HELLO: hello,
}


@contextmanager
def started(
    name: str,
    folder: Path,
    make: Callable[[Place], Server | Apart],
    *,
    stores: bool = True,
    mongod: tuple[str, ...] = (),
) -> Iterator[Contestant]:
    """A contestant at work, its mongod with it."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        base = stack.enter_context(Base(folder, mongod)) if stores else None
        server = make(Place(folder, free_port(), base.uri if base else ""))
        stack.enter_context(server)
        yield Contestant(name, server, base, folder)


@contextmanager
def field_of(names: list[Name], folder: Path, settings: Mapping[str, str]) -> Iterator[list[Contestant]]:
    """All contestants at work; `settings` are for Orderflow alone."""
    with ExitStack() as stack:
        found = []
        for name in names:
            ours = name in (Name.ORDERFLOW, Name.APART)
            make = partial(SERVERS[name], more=settings) if ours else SERVERS[name]
            entered = started(name, folder / name, make, stores=name != Name.HELLO)
            found.append(stack.enter_context(entered))
        yield found


def _peer(place: Place) -> dict[str, str]:
    return {"BIND": f"127.0.0.1:{place.port}", "WEB_CONCURRENCY": str(WORKERS)}
