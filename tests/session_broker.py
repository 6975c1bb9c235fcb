"""The RabbitMQ that all tests of a session share: it starts when the first test asks for it, and ends with the session."""

import os
import threading
from pathlib import Path

from tools.cluster.rabbitmq import Rabbit

START, STOP = b"+", b"-"


class SessionBroker:
    """A broker that the process of the session owns and that any of its xdist workers can ask for.

    Workers ask by a named pipe. A thread of the session's process reads it and starts the broker: Linux ends the broker
    with that thread, so it never outlives the session, even when that is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._rabbit = Rabbit(folder / "rabbit")
        self.url = self._rabbit.url
        self.requests = folder / "broker-requests"
        os.mkfifo(self.requests)
        # Open for writing too: it never ends, however many workers come and go.
        self._pipe = os.open(self.requests, os.O_RDWR)
        self._thread = threading.Thread(target=self._own, name="session-broker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Kill the broker where it was started."""
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
    """Ask for the broker; it answers some seconds later. Asked for again, it goes on."""
    requests.write_bytes(START)
