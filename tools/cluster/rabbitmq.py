"""A private RabbitMQ server: it listens on one address, keeps all files in one folder, and ends with its owner."""

import os
import secrets
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from amqp import AMQPError, Connection

from tools.cluster.processes import free_port
from tools.cluster.programs import LOCAL_HOST, Host, Program

# Not the script on PATH: Debian's changes the user and serves the system service only.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = "RabbitMQ is missing; on Debian: apt-get install rabbitmq-server (its service need not run)"
USER = "orderflow"
NODE = "orderflow@localhost"
HANDSHAKE_SECONDS = 2.0

# Bounded memory, and a low limit of free disk space so that a full disk does not block publishers.
CONFIGURATION = """\
listeners.tcp.1 = {host}:{port}
default_vhost = orderflow
default_user = {user}
default_pass = {password}
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
log.console = true
log.file = false
"""
# With a fixed port Erlang needs no port mapper; epmd would outlive the process that started it.
ERLANG = (
    f"-noinput -sname {NODE} -start_epmd false -erl_epmd_port {{port}} -kernel inet_dist_use_interface {{{{127,0,0,1}}}} "
    "-kernel inet_dist_listen_min {port} -kernel inet_dist_listen_max {port} +S 2:2"
)


class RabbitMqMissing(RuntimeError):
    """RabbitMQ is not installed; the text says how to install it."""


class InvalidFolder(RuntimeError):
    """RabbitMQ cannot run in this folder; the text says why."""


def find_server() -> Path:
    """Returns the script that starts RabbitMQ. Raises RabbitMqMissing."""
    if not (os.access(SCRIPT, os.X_OK) and shutil.which("erl")):
        raise RabbitMqMissing(MISSING)
    return SCRIPT.resolve()


def installed() -> bool:
    """Whether RabbitMQ is installed."""
    try:
        find_server()
    except RabbitMqMissing:
        return False
    return True


def accepts_connections(url: str) -> bool:
    """Whether a broker completes the AMQP handshake; its port opens before that works."""
    at = urlsplit(url)
    connection = Connection(
        f"{at.hostname}:{at.port}",
        at.username,
        at.password,
        virtual_host=at.path[1:],
        connect_timeout=HANDSHAKE_SECONDS,
        read_timeout=HANDSHAKE_SECONDS,
    )
    try:
        connection.connect()
        connection.close()
    except (OSError, AMQPError):
        return False
    return True


class RabbitMqServer(Program):
    """A RabbitMQ server that can be killed and comes back with the same data on the same port.

    Start it from the main thread: Linux kills it when the thread that started it ends.
    """

    def __init__(self, folder: Path, host: Host = LOCAL_HOST) -> None:
        folder = folder.resolve()
        if not str(folder).isascii() or "'" in str(folder):
            raise InvalidFolder(f"RabbitMQ cannot run in {folder}: the path must be ASCII and have no apostrophe")
        self._folder = folder
        self._address = host.address
        self._script = find_server()
        self.port = free_port()
        self._password = ""
        # A relative path: the script fails where its own path has a blank.
        script = ["home/sbin/rabbitmq-server"]
        super().__init__(script, self._environment(), folder, folder / "rabbitmq.log", host)

    @property
    def url(self) -> str:
        """Its AMQP URL; it stays the same after kill and restart."""
        return f"amqp://{USER}:{self._read_password()}@{self._address}:{self.port}/orderflow"

    def start(self) -> None:
        self._write_files()
        super().start()

    def delete_data(self) -> None:
        """Deletes all queues and messages. It must not be running."""
        shutil.rmtree(self._folder / "data")

    def ready(self) -> bool:
        """Whether it accepts clients."""
        return accepts_connections(self.url)

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PLUGINS_DIR": str(folder / "home/plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOG": "-color",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # The script then becomes the broker instead of waiting for it, so signals reach the broker.
            "RABBITMQ_ALLOW_INPUT": "1",
            # Schedulers bound to one core each would wait for other processes on that core.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG.format(port=free_port()),
        }

    def _read_password(self) -> str:
        """Returns the password; generates it at the first call for this folder."""
        file = self._folder / "password"
        if not self._password and file.exists():
            self._password = file.read_text()
        if not self._password:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._password = secrets.token_hex(16)
            file.touch(mode=0o600)
            file.write_text(self._password)
        return self._password

    def _write_files(self) -> None:
        """Writes the files that it reads; idempotent."""
        home = self._folder / "home"
        (home / "plugins").mkdir(parents=True, exist_ok=True)
        scripts = self._script.parent
        for target in (scripts, *_libraries(scripts.parent / "plugins")):
            link = home / (target.name if target == scripts else f"plugins/{target.name}")
            if not link.is_symlink():
                link.symlink_to(target)
        (self._folder / "enabled_plugins").write_text("[].\n")
        configuration = CONFIGURATION.format(
            host=self._address, port=self.port, user=USER, password=self._read_password()
        )
        file = self._folder / "rabbitmq.conf"
        file.touch(mode=0o600)
        file.write_text(configuration)
        self._write_cookie()

    def _write_cookie(self) -> None:
        """Writes the secret with which one Erlang node may command another; Erlang derives its own from the time."""
        cookie = self._folder / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o400)


def _libraries(folder: Path) -> list[Path]:
    """Returns the libraries that RabbitMQ needs; scanning all plugins takes it two seconds."""
    return [
        each
        for each in sorted(folder.iterdir())
        if each.is_dir() and (not each.name.startswith("rabbitmq_") or each.name.startswith("rabbitmq_prelaunch"))
    ]
