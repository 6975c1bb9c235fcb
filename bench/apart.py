"""Orderflow with its modules in processes of their own, and the broker between them, as one server to be measured."""

from collections.abc import Mapping
from pathlib import Path

import psutil

from app.config import MODULES
from bench.base import DATABASE
from bench.processes import Memory, cpu_of, held_by
from split.fleet import Fleet


class Apart(Fleet):
    """A broker and a process each for gateway, orders and payments; `url` is the gateway's.

    On few cores a second process of the gateway would only take time from the others.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], port: int, mongodb_uri: str) -> None:
        one_database = {f"{module.upper()}_DATABASE": DATABASE for module in MODULES}
        super().__init__(folder, {"LOG_LEVEL": "info", **one_database, **environ}, mongodb_uri=mongodb_uri, port=port)
        self.url = f"http://127.0.0.1:{port}"

    def tree(self) -> list[psutil.Process]:
        """All processes, the broker's among them."""
        first = [program.master for program in self.programs.values()]
        return [*first, *(child for one in first for child in one.children(recursive=True))]

    def cpu(self) -> float:
        """CPU seconds used so far by all of them."""
        return sum(map(cpu_of, self.tree()))

    def memory(self) -> Memory:
        """What all of them hold."""
        return held_by(self.tree())
