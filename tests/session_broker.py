"""The RabbitMQ that all tests of a session share: it starts when the first test needs it, and ends with the session."""

import os
import threading
from pathlib import Path

from tools.cluster.rabbitmq import RabbitMqServer

START, STOP = b"+", b"-"


class SessionBroker:
    """A RabbitMQ that the session's process owns and that any of its xdist workers can start.

    Workers write to a named pipe. A thread of the session's process reads it and starts the broker: Linux kills the broker
    when that thread ends, so it never outlives the session, even if that is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._server = RabbitMqServer(folder / "rabbit")
        self.url = self._server.url
        self.requests = folder / "broker-requests"
        os.mkfifo(self.requests)
        # Also open for writing, so that reading never meets the end of the pipe.
        self._pipe = os.open(self.requests, os.O_RDWR)
        self._thread = threading.Thread(target=self._own, name="session-broker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Kills the broker if it was started."""
        os.write(self._pipe, STOP)
        self._thread.join()
        os.close(self._pipe)

    def _own(self) -> None:
        if os.read(self._pipe, 1) == START:
            self._server.start()
            while os.read(self._pipe, 1) != STOP:
                pass
        self._server.kill()


def request(requests: Path) -> None:
    """Starts the broker, which is ready some seconds later; does nothing if it runs."""
    requests.write_bytes(START)
