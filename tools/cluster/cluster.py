"""A cluster: any number of processes of each module, a mongod and a RabbitMQ; each can be killed, paused or replaced."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from random import choice

from app.config import MODULES
from tools.cluster.mongod import MongodServer
from tools.cluster.processes import ROOT
from tools.cluster.programs import LOCAL_HOST, Host, Program, Service
from tools.cluster.rabbitmq import RabbitMqServer
from tools.cluster.servers import GUNICORN, Server

DATABASE, BROKER = "mongod", "rabbitmq"
WORKER = (sys.executable, "-m", "flask", "--app", "app.main", "worker")
ONE_EACH = dict.fromkeys(MODULES, 1)

# More environment of one process, from its name, the database's URI and the broker's URL.
ExtraEnviron = Callable[[str, str, str], Mapping[str, str]]


class Cluster(Service):
    """Processes of every module, named such as orders-2, with a `mongod` and a `rabbitmq` where no URL is passed.

    `environ` is for all processes, `port` is that of gateway-1, `host_of` returns the host of a program. `prefix` begins
    the names of databases, queues and exchanges. `worker` is the command for all modules but the gateway: gunicorn by default,
    since WORKER costs a second of CPU more in each process. Use it from the main thread.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        *,
        replicas: Mapping[str, int] = ONE_EACH,
        extra_environ: ExtraEnviron = lambda *_: {},
        host_of: Callable[[str], Host] = lambda _: LOCAL_HOST,
        mongodb_uri: str = "",
        bus_url: str = "",
        prefix: str = "orderflow",
        port: int | None = None,
        root: Path = ROOT,
        worker: Sequence[str] = GUNICORN,
    ) -> None:
        # Without a process of webhooks, nothing is recorded for it.
        self._environ = {"WEBHOOKS": str(int("webhooks" in replicas)), **(environ or {})}
        self._extra_environ = extra_environ
        self.prefix = prefix
        self.programs: dict[str, Program] = {}
        self.servers: dict[str, Server] = {}
        self.rabbitmq: RabbitMqServer | None = None
        self._out_of_rotation: set[str] = set()
        if not bus_url:
            self.programs[BROKER] = self.rabbitmq = RabbitMqServer(folder / BROKER, host_of(BROKER))
            bus_url = self.rabbitmq.url
        if not mongodb_uri:
            self.programs[DATABASE] = mongod = MongodServer(folder / DATABASE, host_of(DATABASE))
            mongodb_uri = mongod.uri
        self.mongodb_uri, self.bus_url = mongodb_uri, bus_url
        for name in (f"{module}-{number}" for module in MODULES for number in range(1, replicas.get(module, 0) + 1)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            self.servers[name] = Server(
                folder / name,
                self.environ_of(name),
                root,
                command=GUNICORN if module_of(name) == "gateway" else worker,
                port=port if name == "gateway-1" else None,
                host=host_of(name),
            )
        self.programs |= self.servers

    def start(self) -> None:
        for program in self.programs.values():
            program.start()

    def wait_until_ready(self) -> None:
        for program in self.programs.values():
            program.wait_until_ready()

    @property
    def urls(self) -> list[str]:
        """The gateways that a load balancer would send clients to now."""
        return [server.url for name, server in self.processes_of("gateway") if name not in self._out_of_rotation]

    def any_url(self) -> str:
        """Returns a random gateway of `urls`."""
        return choice(self.urls)  # noqa: S311 - spreads load

    def processes_of(self, module: str) -> Iterator[tuple[str, Server]]:
        """The names and processes of a module."""
        return ((name, server) for name, server in self.servers.items() if module_of(name) == module)

    def databases(self) -> dict[str, str]:
        """The name of each module's database."""
        return {module: f"{self.prefix}_{module}" for module in MODULES}

    def environ_of(self, name: str) -> dict[str, str]:
        """Returns the settings of a process, by its name."""
        return {
            "WEB_CONCURRENCY": "1",
            "MODULES": module_of(name),
            "MONGODB_URI": self.mongodb_uri,
            "BUS_URL": self.bus_url,
            "BUS_PREFIX": self.prefix,
            **{f"{module.upper()}_DATABASE": database for module, database in self.databases().items()},
            **self._environ,
            **self._extra_environ(name, self.mongodb_uri, self.bus_url),
        }

    def replace(self, *names: str) -> None:
        """Replaces processes as an orchestrator does: no new clients, SIGTERM, a new process, clients again."""
        servers = [self.servers[name] for name in names]
        self._out_of_rotation |= {*names}
        for step in (Server.terminate, Server.stop, Server.start, Server.wait_until_ready):
            for server in servers:
                step(server)
        self._out_of_rotation -= {*names}

    def rolling_restart(self, *modules: str) -> None:
        """Replaces all processes of these modules, one of each module at a time."""
        for names in zip_longest(*([name for name, _ in self.processes_of(module)] for module in modules)):
            self.replace(*filter(None, names))

    def stop(self) -> None:
        """Ends gateways first, so that their open requests are answered, then workers, database and broker."""
        for stage in ("gateway", "orders payments webhooks", DATABASE, BROKER):
            programs = [program for name, program in self.programs.items() if module_of(name) in stage.split()]
            for program in programs:
                program.terminate()
            for program in programs:
                program.stop()

    def kill(self) -> None:
        for program in self.programs.values():
            program.kill()


def module_of(name: str) -> str:
    """Returns the module of a process name: `orders` of `orders-2`."""
    return name.partition("-")[0]
