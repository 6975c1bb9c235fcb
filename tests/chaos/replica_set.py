"""Three mongod members on this machine, as one replica set that elects within seconds."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from app.storage.embedded_mongod import HOST, TIED_TO_OWNER, find_binary
from tools.cluster.processes import free_port

NAME = "three"
START_SECONDS = 60.0


class ReplicaSet:
    """Use it from the main thread: Linux kills each mongod when the thread that started it ends."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self._folder = folder
        self._ports = [free_port() for _ in range(members)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ReplicaSet":
        try:
            for port in self._ports:
                self.start(port)
            self._initiate()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(f'{HOST}:{port}' for port in self._ports)}/?replicaSet={NAME}"

    def start(self, port: int) -> None:
        data = self._folder / str(port)
        data.mkdir(parents=True, exist_ok=True)
        options = [
            f"--dbpath={data}",
            f"--port={port}",
            f"--bind_ip={HOST}",
            f"--replSet={NAME}",
            f"--logpath={data}.log",
            "--logappend",
            "--quiet",
            "--nounixsocket",
            "--networkMessageCompressors=snappy",
            "--wiredTigerCacheSizeGB=0.25",
            "--oplogSize=64",
            "--setParameter=diagnosticDataCollectionEnabled=false",
        ]
        self._processes[port] = subprocess.Popen(
            [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), str(find_binary(os.environ)), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def kill(self, port: int) -> None:
        self._processes[port].kill()
        self._processes[port].wait()

    def step_down(self, port: int) -> None:
        with _member(port) as client:
            client.admin.command("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)

    def primary(self, other_than: int | None = None) -> int:
        """Waits for a primary; returns its port."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            for port in self._ports:
                if port != other_than and _hello(port).get("isWritablePrimary"):
                    return port
            time.sleep(0.02)
        raise RuntimeError("no primary was elected")

    def wait_for_secondaries(self) -> None:
        """Waits until all other members are secondaries."""
        ends = time.monotonic() + START_SECONDS
        while sum(bool(_hello(port).get("secondary")) for port in self._ports) < len(self._ports) - 1:
            if time.monotonic() > ends:
                raise RuntimeError("the members did not become secondaries")
            time.sleep(0.05)

    def _initiate(self) -> None:
        ends = time.monotonic() + START_SECONDS
        while not all(_hello(port) for port in self._ports):
            if time.monotonic() > ends:
                raise RuntimeError("the members did not start")
            time.sleep(0.05)
        config = {
            "_id": NAME,
            "members": [{"_id": number, "host": f"{HOST}:{port}"} for number, port in enumerate(self._ports)],
            "settings": {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 500},
        }
        with _member(self._ports[0]) as client:
            client.admin.command("replSetInitiate", config)
        self.primary()
        self.wait_for_secondaries()


def _member(port: int) -> MongoClient[dict[str, Any]]:
    return MongoClient(HOST, port, directConnection=True, serverSelectionTimeoutMS=1000, socketTimeoutMS=20_000)


def _hello(port: int) -> dict[str, Any]:
    try:
        with _member(port) as client:
            return client.admin.command("hello")
    except PyMongoError:
        return {}
