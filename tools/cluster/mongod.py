"""A mongod that is a program like the others: kept by a process of its own, wherever that is to run."""

import os
import signal
import sys
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.storage.embedded_mongod import HOST, Mongod, connection_uri
from tools.cluster.servers import HERE, ROOT, Place, Program, free_port

LOOK_MS = 500


class Mongo(Program):
    """A mongod that can be killed and comes back with the same data on the same port."""

    def __init__(self, folder: Path, place: Place = HERE) -> None:
        folder = folder.resolve()
        self.port = free_port()
        # Asked for itself alone: it knows itself by another address than those who come from elsewhere.
        self.uri = connection_uri(folder, self.port, "directConnection=true", place.host)
        self._folder = folder
        command = [sys.executable, "-m", "tools.cluster.mongod", str(folder), str(self.port), place.host]
        super().__init__(command, os.environ, ROOT, folder / "mongod.log", place)

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        super().start()

    def ready(self) -> bool:
        """Whether it takes writes."""
        try:
            with MongoClient(self.uri, serverSelectionTimeoutMS=LOOK_MS) as client:
                return bool(client.admin.command("hello")["isWritablePrimary"])
        except PyMongoError:
            return False


def keep(folder: Path, port: int, host: str) -> None:
    """Run a mongod until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Mongod(folder, port=port, extra=[f"--bind_ip={','.join(dict.fromkeys((HOST, host)))}"]):
        while True:
            signal.pause()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
