"""The servers that run on this machine: each leaves its address in its data folder, where commands look for it.

The file stays locked while the server or one of its workers runs. So the file of a server that was killed is recognised.
"""

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.config import Settings

# The data folder of the checkout: a server with another one leaves its address here too.
CHECKOUT_DATA = Path(__file__).resolve().parents[2] / ".orderflow"
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - replaced by loopback  # nosec B104


@dataclass(frozen=True)
class RunningServer:
    """A server with the gateway: its address as a client reaches it, its data folder and its process."""

    url: str
    data: str
    pid: int


class AddressRecord:
    """The files that tell where a server is. They are locked until the process ends or `withdraw` removes them."""

    def __init__(self, server: RunningServer, folders: Iterable[Path]) -> None:
        self._files = [file for folder in folders if (file := _write_locked(folder, server))]

    def withdraw(self) -> None:
        """Remove the files."""
        for path, descriptor in self._files:
            path.unlink(missing_ok=True)
            os.close(descriptor)
        self._files.clear()


def announce(url: str, data: Path) -> AddressRecord:
    """Announce this process as the server of the data folder. A folder that cannot be written is left out."""
    server = RunningServer(url, str(data.resolve()), os.getpid())
    return AddressRecord(server, {data.resolve(), CHECKOUT_DATA})


def find_servers(folder: Path) -> list[RunningServer]:
    """The running servers that are announced in a folder, the latest first."""
    found = []
    for path in folder.glob("server-*.json"):
        try:
            if not _is_abandoned(path):
                found.append((path.stat().st_mtime_ns, msgspec.json.decode(path.read_bytes(), type=RunningServer)))
        except (OSError, msgspec.DecodeError):
            continue
    return [server for _, server in sorted(found, key=lambda each: each[0], reverse=True)]


def server_url(settings: Settings) -> str:
    """Where the server of these settings is: as it was announced in their data folder, else as BIND and PORT say."""
    data = str(settings.data.resolve())
    servers = [server for server in find_servers(settings.data) if server.data == data]
    host, _, port = settings.listen_address.rpartition(":")
    return servers[0].url if servers else client_url(host.strip("[]"), int(port))


def client_url(host: str, port: int, scheme: str = "http") -> str:
    """The address for a client on this machine of a server that listens on `host`."""
    host = WILDCARDS.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _write_locked(folder: Path, server: RunningServer) -> tuple[Path, int] | None:
    path = folder / f"server-{server.pid}.json"
    fresh = path.with_suffix(".new")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(folder)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, msgspec.json.encode(server))
        # Renamed only when it is locked: whoever sees it sees a running server.
        fresh.rename(path)
    except OSError:
        return None
    return path, descriptor


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob("server-*.json"):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether no server holds the lock of the file. Raises OSError; a file of another user counts as unreadable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
