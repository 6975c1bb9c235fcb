"""Network links that can be cut: a TCP proxy between each process and the database, and each process and the broker."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self
from urllib.parse import urlsplit

from tools.chaos.proxy import Mode, Proxy
from tools.cluster.cluster import BROKER, DATABASE


class ProxyNetwork:
    """The links of a cluster on one host; pass `environ` to it as `extra_environ`.

    A cut link refuses connections; a silent one accepts them and drops all data.
    """

    def __init__(self) -> None:
        self._proxies: dict[tuple[str, str], Proxy] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def environ(self, name: str, mongodb_uri: str, bus_url: str) -> Mapping[str, str]:
        """Returns the settings with which a process reaches database and broker through its own proxies."""
        return {
            "MONGODB_URI": self._proxied(name, DATABASE, mongodb_uri),
            "BUS_URL": self._proxied(name, BROKER, bus_url),
        }

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Cuts the link of a process to the database or the broker."""
        self._proxies[one, other].set_mode(Mode.HALF_OPEN if silent else Mode.CUT)

    def heal(self, one: str, other: str) -> None:
        """Restores the link."""
        self._proxies[one, other].set_mode(Mode.FORWARD)

    def disconnect(self, name: str) -> None:
        """Drops all data to and from a program."""
        for pair, proxy in self._proxies.items():
            if name in pair:
                proxy.set_mode(Mode.HALF_OPEN)

    def reconnect(self, name: str) -> None:
        """Restores all its links."""
        for pair, proxy in self._proxies.items():
            if name in pair:
                proxy.set_mode(Mode.FORWARD)

    def _proxied(self, name: str, other: str, url: str) -> str:
        port = urlsplit(url).port
        if (name, other) not in self._proxies:
            self._proxies[name, other] = self._cleanup.enter_context(Proxy(port))
        return url.replace(f":{port}/", f":{self._proxies[name, other].port}/")
