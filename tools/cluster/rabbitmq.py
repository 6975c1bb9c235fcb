"""A RabbitMQ of one's own: on loopback alone, all its files in one folder, gone with the process that started it."""

import os
import secrets
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from amqp import AMQPError, Connection

from tools.cluster.servers import HERE, Place, Program, free_port

# Not the one on PATH: Debian's changes the user, and is for the service alone.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = "RabbitMQ is missing; on Debian: apt-get install rabbitmq-server (its service need not run)"
USER = "orderflow"
NODE = "orderflow@localhost"
HANDSHAKE_SECONDS = 2.0

# A small broker: what it keeps in memory is bounded, and little room on the disk must not stop it.
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
# Told where the node's port is, Erlang needs no port mapper: epmd would outlive whoever started it.
ERLANG = (
    f"-noinput -sname {NODE} -start_epmd false -erl_epmd_port {{port}} -kernel inet_dist_use_interface {{{{127,0,0,1}}}} "
    "-kernel inet_dist_listen_min {port} -kernel inet_dist_listen_max {port} +S 2:2"
)


class RabbitMissing(RuntimeError):
    """There is no RabbitMQ to run; the text says how to get one."""


class BadFolder(RuntimeError):
    """RabbitMQ cannot live there; the text says why."""


def find_server() -> Path:
    """The script that starts RabbitMQ. Raises RabbitMissing."""
    if not (os.access(SCRIPT, os.X_OK) and shutil.which("erl")):
        raise RabbitMissing(MISSING)
    return SCRIPT.resolve()


def installed() -> bool:
    """Whether there is a RabbitMQ to run."""
    try:
        find_server()
    except RabbitMissing:
        return False
    return True


def answers(url: str) -> bool:
    """Whether a broker lets us in: a whole handshake, for its port alone opens before it is of use."""
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


class Rabbit(Program):
    """A broker that can be killed and comes back with the same data on the same port.

    Start it from the main thread: Linux ends it with the thread that started it.
    """

    def __init__(self, folder: Path, place: Place = HERE) -> None:
        folder = folder.resolve()
        if not str(folder).isascii() or "'" in str(folder):
            raise BadFolder(f"RabbitMQ cannot live in {folder}: it takes plain letters alone, and no apostrophe")
        self._folder = folder
        self._host = place.host
        self._script = find_server()
        self.port = free_port()
        self._password = ""
        # By a relative path: the script cannot stand a blank in its own.
        script = ["home/sbin/rabbitmq-server"]
        super().__init__(script, self._environment(), folder, folder / "rabbitmq.log", place)

    @property
    def url(self) -> str:
        """Where it is, killed or not."""
        return f"amqp://{USER}:{self._secret()}@{self._host}:{self.port}/orderflow"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        self._arrange()
        super().start()

    def forget(self) -> None:
        """Lose whatever it had: queues, messages, all. It must not be running."""
        shutil.rmtree(self._folder / "data")

    def ready(self) -> bool:
        """Whether it lets clients in."""
        return answers(self.url)

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
            # The script then becomes the broker instead of waiting for it: signals reach whom they are meant for.
            "RABBITMQ_ALLOW_INPUT": "1",
            # Bound to one core each, schedulers would wait there for whoever else is at work.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG.format(port=free_port()),
        }

    def _secret(self) -> str:
        """The password, drawn when the data were made."""
        file = self._folder / "password"
        if not self._password and file.exists():
            self._password = file.read_text()
        if not self._password:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._password = secrets.token_hex(16)
            file.touch(mode=0o600)
            file.write_text(self._password)
        return self._password

    def _arrange(self) -> None:
        """Lay out what it reads; safe to repeat."""
        home = self._folder / "home"
        (home / "plugins").mkdir(parents=True, exist_ok=True)
        scripts = self._script.parent
        for target in (scripts, *_libraries(scripts.parent / "plugins")):
            link = home / (target.name if target == scripts else f"plugins/{target.name}")
            if not link.is_symlink():
                link.symlink_to(target)
        (self._folder / "enabled_plugins").write_text("[].\n")
        told = CONFIGURATION.format(host=self._host, port=self.port, user=USER, password=self._secret())
        file = self._folder / "rabbitmq.conf"
        file.touch(mode=0o600)
        file.write_text(told)
        self._draw_cookie()

    def _draw_cookie(self) -> None:
        """The secret that lets one Erlang node command another; Erlang's own is made from the time and can be guessed."""
        cookie = self._folder / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o400)


def _libraries(folder: Path) -> list[Path]:
    """What RabbitMQ needs of its libraries: it looks through all that it finds, plugins or not, for two seconds."""
    return [
        each
        for each in sorted(folder.iterdir())
        if each.is_dir() and (not each.name.startswith("rabbitmq_") or each.name.startswith("rabbitmq_prelaunch"))
    ]
