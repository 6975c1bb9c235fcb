"""The RabbitMQ that all tests of a session share. It is started for the first test that needs it, and ends with the session."""

import os
import threading
from pathlib import Path

from tools.cluster.rabbitmq import Rabbit

START, STOP = b"+", b"-"


class SessionBroker:
    """A broker that belongs to the session's main process; any xdist worker can have it started.

    A worker writes to a named pipe. A thread of the main process reads the pipe and starts the broker. Linux ends the
    broker together with that thread, so it never outlives the session, even if the session is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._rabbit = Rabbit(folder / "rabbit")
        self.url = self._rabbit.url
        self.requests = folder / "broker-requests"
        os.mkfifo(self.requests)
        # Opened for writing too, so that the pipe does not end when a worker closes it.
        self._pipe = os.open(self.requests, os.O_RDWR)
        self._thread = threading.Thread(target=self._own, name="session-broker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Kill the broker if it was started."""
        os.write(self._pipe, STOP)
        self._thread.join()
        os.close(self._pipe)

    def _own(self) -> None:
        if os.read(self._pipe, 1) == START:
            self._rabbit.start()
            while os.read(self._pipe, 1) != STOP:
                pass
        self._rabbit.kill()


def request(requests: Path) -> None:
    """Have the broker started; it accepts connections some seconds later. Safe to repeat."""
    requests.write_bytes(START)
