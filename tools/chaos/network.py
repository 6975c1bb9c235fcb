"""Lines that can be cut: a proxy of its own between each process and the database, and the broker."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self
from urllib.parse import urlsplit

from tools.chaos.proxy import Mode, Proxy
from tools.cluster.fleet import BROKER, DATABASE


class Proxies:
    """The lines of a fleet on one machine; hand `each` to it. A cut line is refused, a silent one swallows all."""

    def __init__(self) -> None:
        self._proxies: dict[tuple[str, str], Proxy] = {}
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def each(self, name: str, mongodb_uri: str, bus_url: str) -> Mapping[str, str]:
        """What one process is told: the way to database and broker through its own lines."""
        return {
            "MONGODB_URI": self._through(name, DATABASE, mongodb_uri),
            "BUS_URL": self._through(name, BROKER, bus_url),
        }

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Let nothing pass between a process and the database or the broker."""
        self._proxies[one, other].be(Mode.HALF_OPEN if silent else Mode.CUT)

    def heal(self, one: str, other: str) -> None:
        """Let all pass again."""
        self._proxies[one, other].be(Mode.THROUGH)

    def unplug(self, name: str) -> None:
        """Let nothing pass to or from a program."""
        for pair, proxy in self._proxies.items():
            if name in pair:
                proxy.be(Mode.HALF_OPEN)

    def plug(self, name: str) -> None:
        """Let all pass again."""
        for pair, proxy in self._proxies.items():
            if name in pair:
                proxy.be(Mode.THROUGH)

    def _through(self, name: str, other: str, url: str) -> str:
        port = urlsplit(url).port
        if (name, other) not in self._proxies:
            self._proxies[name, other] = self._ending.enter_context(Proxy(port))
        return url.replace(f":{port}/", f":{self._proxies[name, other].port}/")
