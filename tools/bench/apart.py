"""Orderflow with its modules in processes of their own, and the broker between them, as one server to be measured."""

from collections.abc import Mapping
from pathlib import Path

import psutil

from app.config import MODULES
from tools.bench.base import DATABASE
from tools.bench.processes import Memory, cpu_of, held_by
from tools.cluster.fleet import BROKER, Fleet, module_of


class Apart(Fleet):
    """A broker and a process each for gateway, orders and payments; `url` is the gateway's.

    On few cores a second process of the gateway would only take time from the others. Payments may have a server of
    their own for their database.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str], port: int, mongodb_uri: str, payments_uri: str = ""
    ) -> None:
        one_database = {f"{module.upper()}_DATABASE": DATABASE for module in MODULES}
        own = {"MONGODB_URI": payments_uri} if payments_uri else {}
        super().__init__(
            folder,
            {"LOG_LEVEL": "info", **one_database, **environ},
            each=lambda name, *_: own if module_of(name) == "payments" else {},
            mongodb_uri=mongodb_uri,
            port=port,
        )
        self.url = f"http://127.0.0.1:{port}"

    def tree(self) -> list[psutil.Process]:
        """All processes, the broker's among them."""
        return [one for first in self._first().values() for one in (first, *first.children(recursive=True))]

    def cpus(self) -> dict[str, float]:
        """CPU seconds used so far by each module, and by the broker."""
        return {
            name: sum(map(cpu_of, (first, *first.children(recursive=True)))) for name, first in self._first().items()
        }

    def _first(self) -> dict[str, psutil.Process]:
        known = {BROKER: "broker"}
        return {known.get(name, module_of(name)): program.master for name, program in self.programs.items()}

    def cpu(self) -> float:
        """CPU seconds used so far by all of them."""
        return sum(map(cpu_of, self.tree()))

    def memory(self) -> Memory:
        """What all of them hold."""
        return held_by(self.tree())
