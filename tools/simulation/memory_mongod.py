"""A mongod for the simulation alone: it keeps nothing beyond its end, so that it costs less than one that must.

It is no member of a replica set, has no journal and one socket file instead of a port: no seed needs an oplog, retryable
writes or durability, since processes die above mongod, which never dies.
"""

import os
import subprocess  # starts mongod, with arguments of our own  # nosec B404
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_plus

import pymongo

from app.storage.embedded_mongod import TIED_TO_OWNER, find_binary

# A folder in memory, where there is one: no seed needs the disk.
MEMORY = Path("/dev/shm")  # noqa: S108
START_SECONDS = 60
STOP_SECONDS = 30


@contextmanager
def memory_mongod() -> Iterator[str]:
    """A mongod for as long as the context lasts, for processes of this user; yields its URI."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        address = Path(folder) / "mongod.sock"
        with _started(Path(folder), address):
            uri = f"mongodb://{quote_plus(str(address))}/?directConnection=true"
            with pymongo.MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=START_SECONDS * 1000) as client:
                client.admin.command("ping")
            yield uri


@contextmanager
def _started(folder: Path, address: Path) -> Iterator[None]:
    command = [
        str(find_binary(os.environ)),
        f"--dbpath={folder}",
        f"--logpath={folder / 'mongod.log'}",
        f"--bind_ip={address}",
        "--nojournal",
        "--quiet",
        "--wiredTigerCacheSizeGB=0.5",
        "--setParameter=diagnosticDataCollectionEnabled=false",
    ]
    process = subprocess.Popen(  # no shell, and nothing of a client in it  # nosec B603
        [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Ctrl-C in the terminal must not reach mongod before the seeds have stopped.
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
