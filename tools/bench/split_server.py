"""Orderflow with processes for each module and RabbitMQ between them, measured as one server."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil

from app.config import MODULES
from tools.bench.database import DATABASE
from tools.bench.processes import Measured, cpu_of
from tools.cluster.cluster import BROKER, ONE_EACH, Cluster, module_of


class SplitServer(Cluster, Measured):
    """A RabbitMQ and `replicas` processes of each module, by default one; `url` is the first gateway's.

    On few cores a second gateway process would only take CPU from the others. `payments_uri` is a database server for
    payments alone.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        port: int,
        mongodb_uri: str,
        payments_uri: str = "",
        *,
        replicas: Mapping[str, int] = ONE_EACH,
    ) -> None:
        one_database = {f"{module.upper()}_DATABASE": DATABASE for module in MODULES}
        payments_environ = {"MONGODB_URI": payments_uri} if payments_uri else {}
        super().__init__(
            folder,
            {"LOG_LEVEL": "info", **one_database, **environ},
            extra_environ=lambda name, *_: payments_environ if module_of(name) == "payments" else {},
            replicas=replicas,
            mongodb_uri=mongodb_uri,
            port=port,
        )
        self.url = f"http://127.0.0.1:{port}"

    def tree(self) -> list[psutil.Process]:
        """Returns all processes, those of the broker included."""
        return [process for program in self.programs.values() for process in program.tree()]

    def cpu_by_module(self) -> dict[str, float]:
        """Returns the CPU seconds used so far by each module and by the broker."""
        used: Counter[str] = Counter()
        for name, program in self.programs.items():
            used["broker" if name == BROKER else module_of(name)] += sum(map(cpu_of, program.tree()))
        return dict(used)
