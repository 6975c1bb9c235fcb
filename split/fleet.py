"""A fleet: each module in as many processes as wanted, one database, one broker; each can be killed, paused, replaced."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from random import choice
from typing import Self

from app.config import MODULES
from chaos.servers import GUNICORN, ROOT, Base, Server
from split.rabbit import Rabbit

WORKER = (sys.executable, "-m", "flask", "--app", "app.main", "worker")
ONE_EACH = dict.fromkeys(MODULES, 1)


class Fleet:
    """Processes of every module, named such as orders-2, and what they need where it is not given.

    `environ` is for all of them, `each` tells what one of them has besides, by its name; `port` is the first gateway's.
    `prefix` begins the names of databases, queues and exchanges. Use it from the main thread.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        *,
        replicas: Mapping[str, int] = ONE_EACH,
        each: Callable[[str], Mapping[str, str]] = lambda _: {},
        mongodb_uri: str = "",
        bus_url: str = "",
        prefix: str = "orderflow",
        port: int | None = None,
        root: Path = ROOT,
    ) -> None:
        self._folder = folder
        self._environ = environ or {}
        self._each = each
        self._given = (mongodb_uri, bus_url)
        self._port = port
        self._root = root
        self._ending = ExitStack()
        self._names = [f"{module}-{number}" for module in MODULES for number in range(1, replicas[module] + 1)]
        self._out: set[str] = set()
        self.base: Base | None = None
        self.rabbit: Rabbit | None = None
        self.prefix = prefix
        self.members: dict[str, Server] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            self._start(ending)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def __iter__(self) -> Iterator[tuple[str, Server]]:
        """Each process, by name."""
        return iter(self.members.items())

    @property
    def mongodb_uri(self) -> str:
        """Where the database is."""
        return self.base.uri if self.base else self._given[0]

    @property
    def bus_url(self) -> str:
        """Where the broker is."""
        return self.rabbit.url if self.rabbit else self._given[1]

    @property
    def urls(self) -> list[str]:
        """The gateways that clients are sent to at the moment."""
        return [server.url for name, server in self.of("gateway") if name not in self._out]

    def any_url(self) -> str:
        """One of the gateways, as a balancer in front of them would choose."""
        return choice(self.urls)  # noqa: S311 - spreads load

    def of(self, module: str) -> list[tuple[str, Server]]:
        """The processes of a module, by name."""
        return [(name, server) for name, server in self.members.items() if module_of(name) == module]

    def replace(self, name: str) -> None:
        """End one process in order, then start its successor: clients are sent elsewhere first. As orchestrators do."""
        self._out.add(name)
        self.members[name].stop()
        self.members[name].start()
        self.members[name].wait_until_ready()
        self._out.discard(name)

    def roll(self, module: str) -> None:
        """Replace the processes of a module, one after the other."""
        for name, _ in self.of(module):
            self.replace(name)

    def databases(self) -> dict[str, str]:
        """The name of each module's database."""
        return {module: f"{self.prefix}_{module}" for module in MODULES}

    def environ_of(self, name: str) -> dict[str, str]:
        """What one process is told, by its name."""
        return {
            "WEB_CONCURRENCY": "1",
            "MODULES": module_of(name),
            "MONGODB_URI": self.mongodb_uri,
            "BUS_URL": self.bus_url,
            "BUS_PREFIX": self.prefix,
            **{f"{module.upper()}_DATABASE": database for module, database in self.databases().items()},
            **self._environ,
            **self._each(name),
        }

    def _start(self, ending: ExitStack) -> None:
        uri, url = self._given
        if not url:
            self.rabbit = Rabbit(self._folder / "rabbitmq")
            self.rabbit.start()
            ending.callback(self.rabbit.stop)
        if not uri:
            self.base = ending.enter_context(Base(self._folder / "mongod"))
        for name in self._names:
            self.members[name] = self._member(name)
        ending.callback(self._stop)
        for server in self.members.values():
            server.start()
        if self.rabbit:
            self.rabbit.wait_until_ready()
        for server in self.members.values():
            server.wait_until_ready()

    def _stop(self) -> None:
        # Gateways end first: what they have taken on is still answered then.
        gateways = [server for _, server in self.of("gateway")]
        others = [server for _, server in self if server not in gateways]
        for servers in (gateways, others):
            for server in servers:
                server.terminate()
            for server in servers:
                server.stop()

    def _member(self, name: str) -> Server:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Server(
            folder,
            self.environ_of(name),
            self._root,
            command=GUNICORN if module_of(name) == "gateway" else WORKER,
            port=self._port if name == "gateway-1" else None,
        )


def module_of(name: str) -> str:
    """What a process of that name runs."""
    return name.rpartition("-")[0]
