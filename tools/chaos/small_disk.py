"""A disk that can be filled: a tmpfs of a fixed size, where mounting is permitted."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import pymongo
from pymongo.errors import PyMongoError

from tools.cluster.mongod import mongo_client

CHECKPOINT_SECONDS = 1.0
FILL_SECONDS = 3.0
MEGABYTE = 1 << 20
# More than the space that mongod reserves for its journal.
MAX_FILLER_MEGABYTES = 400


class SmallDisk:
    """A tmpfs of `megabytes` mounted on `folder`; an ordinary folder where mounting is not permitted.

    `fill` shrinks it to its used size, which takes no time and no memory.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._size = f"size={megabytes}m"
        self.mounted = False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mounted = _mount("-t", "tmpfs", "-o", f"{self._size},mode=700", "tmpfs", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            self.mounted = False
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)

    def fill(self) -> bool:
        """Leaves no free space; false if nothing is mounted."""
        used = subprocess.run(
            ["df", "--output=used", "--block-size=1K", str(self.folder)], capture_output=True, text=True, check=True
        )
        return self.mounted and self._resize(f"size={used.stdout.split()[-1]}k")

    def release(self) -> None:
        """Restores the full size."""
        if self.mounted:
            self._resize(self._size)

    def _resize(self, size: str) -> bool:
        return _mount("-o", f"remount,{size}", str(self.folder))


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def fill_under_mongod(disk: SmallDisk, uri: str) -> bool:
    """Fills the disk of a mongod and the space reserved for its journal. False if the disk or mongod does not allow it.

    mongod then fails writes or ends. It makes a checkpoint every second from now on, so it notices soon.
    """
    try:
        with mongo_client(uri) as client:
            client.admin.command("setParameter", 1, syncdelay=CHECKPOINT_SECONDS)
            filler = client.filler.filler
            filler.insert_one({})
            if not disk.fill():
                return False
            with suppress(PyMongoError), pymongo.timeout(FILL_SECONDS):
                for _ in range(MAX_FILLER_MEGABYTES):
                    filler.insert_one({"bytes": os.urandom(MEGABYTE)})
    except PyMongoError:
        return False
    return True
