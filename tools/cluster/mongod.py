"""A mongod as a program: a process of its own runs it, on any host."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.storage.embedded_mongod import HOST, Mongod, connection_uri
from tools.cluster.processes import ROOT, free_port
from tools.cluster.programs import LOCAL_HOST, Host, Program

CHECK_TIMEOUT_MS = 500


class MongodServer(Program):
    """A mongod that can be killed and comes back with the same data on the same port."""

    def __init__(self, folder: Path, host: Host = LOCAL_HOST) -> None:
        folder = folder.resolve()
        self.port = free_port()
        # A direct connection: the replica set's own address for itself differs from the one that other hosts use.
        self.uri = connection_uri(folder, self.port, "directConnection=true", host.address)
        self._folder = folder
        command = [sys.executable, "-m", "tools.cluster.mongod", str(folder), str(self.port), host.address]
        super().__init__(command, os.environ, ROOT, folder / "mongod.log", host)

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        super().start()

    def ready(self) -> bool:
        """Whether it accepts writes."""
        try:
            with MongoClient(self.uri, serverSelectionTimeoutMS=CHECK_TIMEOUT_MS) as client:
                return bool(client.admin.command("hello")["isWritablePrimary"])
        except PyMongoError:
            return False


def mongo_client(uri: str) -> MongoClient[dict[str, Any]]:
    """Returns a client that waits up to 20 s for a primary."""
    return MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=20_000)


def run_mongod(folder: Path, port: int, host: str) -> None:
    """Runs a mongod until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Mongod(folder, port=port, extra=[f"--bind_ip={','.join(dict.fromkeys((HOST, host)))}"]):
        while True:
            signal.pause()


if __name__ == "__main__":
    run_mongod(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
