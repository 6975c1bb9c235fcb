"""How gunicorn serves Orderflow: settings from the environment, the embedded database, start and stop in order."""

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
from dataclasses import replace
from pathlib import Path

from gunicorn.arbiter import Arbiter
from gunicorn.systemd import SD_LISTEN_FDS_START, listen_fds

from app.config import BadSettings, Settings, foreign_names
from app.observability.logging import start_writing, stop_writing
from app.server import workers as serving
from app.server.embedded_database import EmbeddedDatabase, NotStarted
from app.server.log import ServerLogger, server_log

# app.server bounds what one client may cost; see there.
CHECK_KEYS = "from app.gateway.security.jwt_keys import main; main()"
WORKERS = {"gevent": "app.server.workers.Gevent", "gthread": "app.server.workers.Threads"}

CONNECTIONS = 1000
# For up to 64 connections to the database, 64 calls to the provider, the broker and files; about 20 are open at rest.
OTHER_DESCRIPTORS = 256


def _connections():
    """How many clients a worker may have at once, so that they leave it the descriptors that its other work needs.

    Takes all descriptors that this process may have: what is usual, 1024, is too few for 1000 clients.
    """
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_DESCRIPTORS
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if usual != resource.RLIM_INFINITY and usual < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return max(allowed - OTHER_DESCRIPTORS, allowed // 4)


try:
    settings = Settings.read(os.environ)
except BadSettings as exc:
    sys.exit(str(exc))
worker_name = os.environ.get("WORKER_CLASS") or "gevent"
if worker_name not in WORKERS:
    sys.exit(f"WORKER_CLASS is {worker_name!r}: use gevent or gthread")

wsgi_app = "app.main:create_app()"
bind = settings.listen_address
worker_class = WORKERS[worker_name]
logger_class = ServerLogger
serving.limits = serving.ConnectionLimits(
    head_seconds=settings.head_deadline,
    body_seconds=settings.body_deadline,
    requests=settings.requests_per_connection,
    per_address=settings.connections_per_address,
)
workers = int(os.environ.get("WEB_CONCURRENCY") or "2")
worker_connections = _connections()
threads = 32
timeout = 30
graceful_timeout = 30
# A stopping worker waits for idle connections this long.
keepalive = 5
# Workers prove that they live by touching a file: on a memory file system no slow disk can make them look dead.
MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn makes an unnamed file there  # nosec B108
worker_tmp_dir = str(MEMORY) if MEMORY.is_dir() else None
control_socket_disable = True
METRICS = "orderflow-metrics-"
# Nobody may say for whom they call but proxies that are named.
forwarded_allow_ips = settings.trusted_proxies
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190


def on_starting(server):
    """Start the embedded database where no other is named, for all workers to share."""
    server_log.start()
    atexit.register(server_log.stop)
    _refuse_unsafe_addresses(server)
    if unread := foreign_names(os.environ):
        server.log.warning(unread)
    if settings.identity:
        # In a process of its own: what it loads must not be there before workers patch it for gevent.
        if subprocess.run([sys.executable, "-c", CHECK_KEYS], check=False).returncode:  # as it stands here  # nosec B603
            sys.exit(1)
    elif settings.runs("gateway"):
        server.log.warning("nobody is asked who they are; AUTH_JWT_… in .env.example tells how to change that")
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # Workers share what they count through files there; it must be set before any of them imports the metrics.
        # Kept on the server: this file is read again at a reload.
        server.metrics, server.metrics_held = _metrics_folder()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(server.metrics)
    if settings.mongodb_uri:
        return
    # Kept on the server: this file is read again at a reload, and the database ends when its pipe is let go.
    server.database = EmbeddedDatabase(settings.data, server.log)
    try:
        os.environ["MONGODB_URI"] = server.database.start()
    except NotStarted:
        sys.exit("The embedded database did not start; set MONGODB_URI to use one of your own.")
    server.log.info("embedded database in %s", settings.data.resolve())
    _each_second(server, server.database.ensure_supervised)


def _refuse_unsafe_addresses(server):
    """Judge where gunicorn really listens as BIND is judged: its command line and systemd can change that."""
    passed = range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + listen_fds(unset_environment=False))
    for address in (*server.cfg.address, *passed):
        try:
            replace(settings, bind=_host_of(address))
        except BadSettings as exc:
            sys.exit(str(exc))


def _host_of(address):
    """The host of an address as gunicorn has it: host and port, a socket's path, or the number of an open socket."""
    if isinstance(address, int):
        with socket.socket(fileno=os.dup(address)) as opened:
            address = opened.getsockname()
    if not isinstance(address, tuple):
        return "localhost"
    return address[0] or "0.0.0.0"  # noqa: S104 - what an empty host means there  # nosec B104


def _each_second(server, task):
    """Have the master do `task` in each round of its main loop, which takes a second at most; gunicorn has no hook for it."""
    manage_workers = server.manage_workers

    def manage_workers_and_do_task():
        manage_workers()
        task()

    server.manage_workers = manage_workers_and_do_task


def post_fork(server, worker):
    """Until it has handlers of its own a worker may go at once: it holds nothing yet, and the master's swallow it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def post_worker_init(worker):
    """Start relays and payments in the worker, after the fork; stop claiming at the first sign of the end."""
    running = worker.wsgi.extensions["orderflow"]
    running.start(on_unusable=_fail_to_boot)
    start_writing()
    server_log.start()
    # What is here now stays; the rest is mostly freed without a search for cycles, so one is made less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _draining(running, signal.getsignal(number)))


def _fail_to_boot():
    """End this worker, its log written, with the code by which gunicorn ends the server instead of starting another one."""
    stop_writing()
    os._exit(Arbiter.WORKER_BOOT_ERROR)


def worker_exit(server, worker):
    """End what runs, give back the rest."""
    app = getattr(worker, "wsgi", None)
    if app is None:
        return
    running = app.extensions["orderflow"]
    running.stop()
    stop_writing()
    server_log.stop()
    if running.hung_calls:
        # Python would wait for their threads, which may never come back.
        os._exit(0)


def on_exit(server):
    """The database goes last."""
    shutil.rmtree(getattr(server, "metrics", ""), ignore_errors=True)
    database = getattr(server, "database", None)
    if database is not None:
        database.stop()


def _metrics_folder():
    """A folder that is locked while this server or a worker of it lives; those that nobody holds any more go."""
    # In memory where nothing else is wished for: on a full disk a worker would die of a metric it cannot write.
    wished = os.environ.get("TMPDIR")
    place = wished or (worker_tmp_dir if os.access(MEMORY, os.W_OK) else None) or tempfile.gettempdir()
    for old in Path(place).glob(f"{METRICS}*"):
        mark = _open_mark(old)
        if mark is not None:
            if _locked(mark):
                shutil.rmtree(old, ignore_errors=True)
            os.close(mark)
    folder = Path(tempfile.mkdtemp(prefix=METRICS, dir=place))
    held = (folder / "new").open("w")
    _locked(held)
    # Only now by the name that servers look for which start at the same moment.
    (folder / "new").rename(folder / "held")
    return folder, held


def _open_mark(folder):
    """The file by which an earlier server of this user holds its folder; None for whatever others have put there."""
    try:
        about = folder.lstat()
        ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077
        return os.open(folder / "held", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) if ours else None
    except OSError:
        return None


def _locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _draining(running, then):
    def handle(number, frame):
        running.drain()
        if callable(then):
            then(number, frame)

    return handle
