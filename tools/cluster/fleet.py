"""A fleet: each module in as many processes as wanted, a database, a broker; each can be killed, paused, replaced."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from random import choice

from app.config import MODULES
from tools.cluster.mongod import Mongo
from tools.cluster.rabbitmq import Rabbit
from tools.cluster.servers import GUNICORN, HERE, ROOT, Place, Program, Server, Started

DATABASE, BROKER = "mongod", "rabbitmq"
WORKER = (sys.executable, "-m", "flask", "--app", "app.main", "worker")
ONE_EACH = dict.fromkeys(MODULES, 1)

# What one process is told besides, by its name and where database and broker are.
Each = Callable[[str, str, str], Mapping[str, str]]


class Fleet(Started):
    """Processes of every module, named such as orders-2, and the `mongod` and the `rabbitmq` that are not given.

    `environ` is for all of them, `port` is the first gateway's, `places` tells where each runs. `prefix` begins the
    names of databases, queues and exchanges. `worker` starts a module other than the gateway: what WORKER becomes,
    where nobody needs to see the command itself, which costs a second of CPU each. Use it from the main thread.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        *,
        replicas: Mapping[str, int] = ONE_EACH,
        each: Each = lambda *_: {},
        places: Callable[[str], Place] = lambda _: HERE,
        mongodb_uri: str = "",
        bus_url: str = "",
        prefix: str = "orderflow",
        port: int | None = None,
        root: Path = ROOT,
        worker: Sequence[str] = GUNICORN,
    ) -> None:
        self._environ = environ or {}
        self._each = each
        self.prefix = prefix
        self.programs: dict[str, Program] = {}
        self.servers: dict[str, Server] = {}
        self.rabbit: Rabbit | None = None
        self._resting: set[str] = set()
        if not bus_url:
            self.programs[BROKER] = self.rabbit = Rabbit(folder / BROKER, places(BROKER))
            bus_url = self.rabbit.url
        if not mongodb_uri:
            self.programs[DATABASE] = mongo = Mongo(folder / DATABASE, places(DATABASE))
            mongodb_uri = mongo.uri
        self.mongodb_uri, self.bus_url = mongodb_uri, bus_url
        for name in (f"{module}-{number}" for module in MODULES for number in range(1, replicas[module] + 1)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            self.servers[name] = Server(
                folder / name,
                self.environ_of(name),
                root,
                command=GUNICORN if module_of(name) == "gateway" else worker,
                port=port if name == "gateway-1" else None,
                place=places(name),
            )
        self.programs |= self.servers

    def start(self) -> None:
        """Start all of them."""
        for program in self.programs.values():
            program.start()

    def wait_until_ready(self) -> None:
        """Wait until each is of use."""
        for program in self.programs.values():
            program.wait_until_ready()

    @property
    def urls(self) -> list[str]:
        """The gateways that clients are sent to at the moment."""
        return [server.url for name, server in self.of("gateway") if name not in self._resting]

    def any_url(self) -> str:
        """One of the gateways, as a balancer in front of them would choose."""
        return choice(self.urls)  # noqa: S311 - spreads load

    def of(self, module: str) -> Iterator[tuple[str, Server]]:
        """The processes of a module, by name."""
        return ((name, server) for name, server in self.servers.items() if module_of(name) == module)

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
            **self._each(name, self.mongodb_uri, self.bus_url),
        }

    def replace(self, *names: str) -> None:
        """End processes in order and start their successors, as orchestrators do: clients are sent elsewhere first."""
        servers = [self.servers[name] for name in names]
        self._resting |= {*names}
        for step in (Server.terminate, Server.stop, Server.start, Server.wait_until_ready):
            for server in servers:
                step(server)
        self._resting -= {*names}

    def roll(self, *modules: str) -> None:
        """Replace the processes of these modules, of each one at a time."""
        for names in zip_longest(*([name for name, _ in self.of(module)] for module in modules)):
            self.replace(*filter(None, names))

    def stop(self) -> None:
        """End all in order: gateways first, so that what they have taken on is answered; what others need last."""
        for stage in ("gateway", "orders payments", DATABASE, BROKER):
            programs = [program for name, program in self.programs.items() if module_of(name) in stage.split()]
            for program in programs:
                program.terminate()
            for program in programs:
                program.stop()

    def kill(self) -> None:
        """End all with kill -9."""
        for program in self.programs.values():
            program.kill()


def module_of(name: str) -> str:
    """What a program of that name runs."""
    return name.partition("-")[0]
