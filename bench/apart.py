"""Orderflow with its modules in processes of their own, and the broker between them, as one server to be measured."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil

from bench.processes import Memory, Server, cpu_of, held_by
from chaos.servers import free_port
from split.rabbit import Rabbit

GATEWAY = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py")
WORKER = (sys.executable, "-m", "flask", "--app", "app.main", "worker")
COMMANDS = {"orders": WORKER, "payments": WORKER, "gateway": GATEWAY}


class Apart:
    """A broker and a process each for orders, payments and the gateway; `url` is the gateway's.

    On few cores a second process of the gateway would only take time from the others.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], port: int) -> None:
        self._rabbit = Rabbit(folder / "rabbit")
        ports = {"gateway": port, "orders": free_port(), "payments": free_port()}
        self._servers = {
            module: Server(
                COMMANDS[module],
                {**environ, "MODULES": module, "PORT": str(ports[module]), "WEB_CONCURRENCY": "1"},
                ports[module],
                "/readyz",
                folder / f"{module}.log",
            )
            for module in COMMANDS
        }
        self.url = self._servers["gateway"].url
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._rabbit)
            for server in self._servers.values():
                server.environ["BUS_URL"] = self._rabbit.url
                stack.enter_context(server)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def tree(self) -> list[psutil.Process]:
        """All processes, the broker's among them."""
        broker = self._rabbit.master
        return [
            broker,
            *broker.children(recursive=True),
            *(one for each in self._servers.values() for one in each.tree()),
        ]

    def cpu(self) -> float:
        """CPU seconds used so far by all of them."""
        return sum(map(cpu_of, self.tree()))

    def memory(self) -> Memory:
        """What all of them hold."""
        return held_by(self.tree())
