"""The configuration of gunicorn: settings from the environment, the embedded database, orderly start and stop."""

import atexit
import fcntl
import gc
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess  # starts parts of this program, with arguments of our own  # nosec B404
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from gunicorn.arbiter import Arbiter
from gunicorn.systemd import SD_LISTEN_FDS_START, listen_fds

from app.config import BadSettings, Settings, alias_warning
from app.observability.logging import start_writing, stop_writing
from app.observability.request_log import RequestLogger
from app.server import workers as server_workers
from app.server.embedded_database import DatabaseNotStarted, EmbeddedDatabase
from app.server.log import ServerLogger, server_log
from app.server.running_servers import announce, client_url
from app.server.taken_port import taken_port_hint

CHECK_KEYS = "from app.gateway.security.jwt_keys import main; main()"
WORKER_CLASSES = {
    "gevent": "app.server.workers.BoundedGeventWorker",
    "gthread": "app.server.workers.BoundedThreadWorker",
}

MAX_CONNECTIONS = 1000
# File descriptors for up to 64 connections to the database, 64 calls to the provider, the broker and files; about 20 at rest.
RESERVED_DESCRIPTORS = 256


def _connections():
    """How many connections a worker may have, so that enough file descriptors are left for its other work.

    Raises the soft limit of descriptors: the usual one, 1024, is too low for 1000 connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + RESERVED_DESCRIPTORS
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - RESERVED_DESCRIPTORS, limit // 4)


try:
    settings = Settings.read(os.environ)
except BadSettings as exc:
    sys.exit(str(exc))
worker_name = os.environ.get("WORKER_CLASS") or "gevent"
if worker_name not in WORKER_CLASSES:
    sys.exit(f"WORKER_CLASS is {worker_name!r}: use gevent or gthread")

wsgi_app = "app.main:create_app()"
bind = settings.listen_address
worker_class = WORKER_CLASSES[worker_name]
logger_class = ServerLogger
ServerLogger.log_format = settings.log_format
server_workers.request_logger = RequestLogger(settings.request_log)
server_workers.limits = server_workers.ClientLimits(
    head_seconds=settings.head_deadline,
    body_seconds=settings.body_deadline,
    requests=settings.requests_per_connection,
    per_address=settings.connections_per_address,
)
workers = settings.web_concurrency
worker_connections = _connections()
threads = 32
timeout = 30
graceful_timeout = 30
# How long a stopping worker waits for idle connections.
keepalive = 5
# Workers touch a file to show that they are alive. In memory, a slow disk cannot make them look dead.
MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn makes an unnamed file there  # nosec B108
worker_tmp_dir = str(MEMORY) if MEMORY.is_dir() else None
control_socket_disable = True
METRICS_PREFIX = "orderflow-metrics-"
# Only these proxies may name the client that they forward for.
forwarded_allow_ips = settings.trusted_proxies
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190


def on_starting(server):
    """Check the addresses and the keys, and start the embedded database, which all workers share, if no other is set."""
    server_log.start()
    atexit.register(server_log.stop)
    _refuse_unsafe_addresses(server)
    for warning in filter(None, (_taken_port_hint(server), alias_warning(os.environ), *settings.stripe_warnings)):
        server.log.warning(warning)
    if settings.identity:
        # In another process: workers must patch the modules that it imports for gevent before they are imported here.
        if subprocess.run([sys.executable, "-c", CHECK_KEYS], check=False).returncode:  # a constant  # nosec B603
            sys.exit(1)
    elif settings.runs("gateway"):
        server.log.warning("no authentication: every caller may do everything; see AUTH_JWT_… in .env.example")
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # Workers share their metrics through files in this folder. It must be set before any of them imports the metrics.
        # Stored on the server, because a reload executes this file again.
        server.metrics_folder, server.metrics_lock = _create_metrics_folder()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(server.metrics_folder)
    if settings.mongodb_uri:
        return
    # Stored on the server, because a reload executes this file again, and the database ends when its pipe is closed.
    server.database = EmbeddedDatabase(settings.data, server.log)
    try:
        os.environ["MONGODB_URI"] = server.database.start()
    except DatabaseNotStarted:
        sys.exit("The embedded database did not start; set MONGODB_URI to use another one.")
    server.log.info("embedded database in %s", settings.data.resolve())
    if settings.is_development:
        # Workers have a MONGODB_URI, and so cannot tell that this is a laptop.
        os.environ["ALLOW_UNSAFE"] = ",".join(filter(None, (settings.allow_unsafe, "webhook_http")))
    _run_each_second(server, server.database.ensure_supervised)


def _refuse_unsafe_addresses(server):
    """Apply the rules of BIND to every address that gunicorn listens on: its command line and systemd can add some."""
    systemd_sockets = range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + listen_fds(unset_environment=False))
    for address in (*server.cfg.address, *systemd_sockets):
        try:
            replace(settings, bind=_host_of(address))
        except BadSettings as exc:
            sys.exit(str(exc))


def _host_of(address):
    """The host of an address in gunicorn's form: host and port, the path of a Unix socket, or the number of an open socket."""
    if isinstance(address, int):
        with socket.socket(fileno=os.dup(address)) as duplicate:
            address = duplicate.getsockname()
    if not isinstance(address, tuple):
        return "localhost"
    return address[0] or "0.0.0.0"  # noqa: S104 - what an empty host means there  # nosec B104


def _taken_port_hint(server):
    """A sentence if another program holds the port; empty where gunicorn is handed its socket or shares the port."""
    [host, port], *others = [address for address in server.cfg.address if isinstance(address, tuple)] or [("", 0)]
    handed_over = others or not port or "GUNICORN_FD" in os.environ or listen_fds(unset_environment=False)
    return "" if handed_over or server.cfg.reuse_port else taken_port_hint(host, port)


def when_ready(server):
    """Say where the server is: in its data folder for the commands, and, when the first worker is ready, in the log for people."""
    sockets = [listener for listener in server.LISTENERS if isinstance(listener.getsockname(), tuple)]
    if not sockets or not settings.runs("gateway"):
        return
    host, port = sockets[0].getsockname()[:2]
    url = client_url(host, port, "https" if server.cfg.is_ssl else "http")
    # Stored on the server, so that the files stay locked as long as it runs.
    server.announcement = announce(url, settings.data)
    if settings.published_port:
        url = client_url(settings.published_on or host, settings.published_port)
    server.url = url
    # The first worker that is ready takes the byte.
    server.url_unsaid, once = os.pipe()
    os.set_blocking(server.url_unsaid, False)
    os.write(once, b"1")


def _say_url(server):
    with suppress(AttributeError, BlockingIOError):
        os.read(server.url_unsaid, 1)
        server.log.info("open %s", server.url)


def _run_each_second(server, task):
    """Run `task` in each round of the master's main loop, which takes at most a second. gunicorn has no hook for this."""
    manage_workers = server.manage_workers

    def manage_workers_and_do_task():
        manage_workers()
        task()

    server.manage_workers = manage_workers_and_do_task


def post_fork(server, worker):
    """Let signals end a worker at once until it has handlers: it holds nothing yet, and the master's handlers ignore them."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    worker.say_url = partial(_say_url, server)


def post_worker_init(worker):
    """Start the background work in the worker, after the fork, and drain it at the first signal to stop."""
    runtime = worker.wsgi.extensions["orderflow"]
    runtime.start(on_unusable=_fail_to_boot, on_ready=worker.say_url)
    start_writing()
    server_log.start()
    # Exempt what exists now from garbage collection. The rest is mostly freed by reference counts, so collect less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _drain_first(runtime, signal.getsignal(number)))


def _fail_to_boot():
    """Write the log and exit with the code that makes gunicorn stop the server instead of starting another worker."""
    stop_writing()
    os._exit(Arbiter.WORKER_BOOT_ERROR)


def worker_exit(server, worker):
    """Finish running work, then stop."""
    app = getattr(worker, "wsgi", None)
    if app is None:
        return
    runtime = app.extensions["orderflow"]
    runtime.stop()
    stop_writing()
    server_log.stop()
    if runtime.hung_calls():
        # Python would wait for their threads, which may never end.
        os._exit(0)


def on_exit(server):
    """Remove the metrics and stop the database, after all workers."""
    announcement = getattr(server, "announcement", None)
    if announcement is not None:
        announcement.withdraw()
    shutil.rmtree(getattr(server, "metrics_folder", ""), ignore_errors=True)
    database = getattr(server, "database", None)
    if database is not None:
        database.stop()


def _create_metrics_folder():
    """Create and lock the folder of this server's metrics, and remove those of servers that no longer run.

    Returns the folder and the open lock file, which workers inherit: it is locked as long as the server or a worker runs.
    """
    # In memory unless TMPDIR is set: on a full disk a worker would die because it cannot write a metric.
    tmpdir = os.environ.get("TMPDIR")
    parent = tmpdir or (worker_tmp_dir if os.access(MEMORY, os.W_OK) else None) or tempfile.gettempdir()
    for folder in Path(parent).glob(f"{METRICS_PREFIX}*"):
        lock = _open_lock(folder)
        if lock is not None:
            if _try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=parent))
    lock = (folder / "new").open("w")
    _try_lock(lock)
    # Renamed only when locked: a server that starts at the same moment looks for the file `lock`.
    (folder / "new").rename(folder / "lock")
    return folder, lock


def _open_lock(folder):
    """Open the lock file of a metrics folder. None for anything that is not a private folder of this user."""
    try:
        status = folder.lstat()
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        return os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) if ours else None
    except OSError:
        return None


def _try_lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _drain_first(runtime, handler):
    """A signal handler that drains `runtime`, then calls the previous `handler`."""

    def drain_and_handle(number, frame):
        runtime.drain()
        if callable(handler):
            handler(number, frame)

    return drain_and_handle
