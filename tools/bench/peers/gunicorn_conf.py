"""Settings of gunicorn for the peers: the same as Orderflow's where both have them, and no access log."""

import os
from pathlib import Path

bind = os.environ["BIND"]
workers = int(os.environ.get("WEB_CONCURRENCY") or "2")
worker_class = os.environ.get("WORKER_CLASS") or "gthread"
worker_connections = 1000
threads = 16
keepalive = 5
# Short: a peer loses its unpaid orders at the end in any case.
graceful_timeout = 3
accesslog = None
loglevel = "warning"
control_socket_disable = True
MEMORY = Path("/dev/shm")
worker_tmp_dir = str(MEMORY) if MEMORY.is_dir() else None
