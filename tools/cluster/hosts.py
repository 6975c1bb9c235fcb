"""Several hosts on this machine: network namespaces with an address each, on one bridge, that can be parted.

All of it lies inside a namespace of its own, entered by `enclosed`, and vanishes with the process that made it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tools.cluster.servers import ROOT, Place, Program

NETWORK = "10.77.0"
BRIDGE = "hosts"
NOBODY = "02:00:00:00:ff:ff"
ENCLOSED = "ORDERFLOW_ENCLOSED"
TRIAL = "ip link add bridge0 type bridge && ip link add line0 type veth peer name line1"
NOT_PERMITTED = (
    "network namespaces are not permitted here, or iproute2 is missing (on Debian: apt-get install iproute2)"
)


def permitted() -> bool:
    """Whether namespaces, bridges and the like can be made."""
    if not (shutil.which("unshare") and shutil.which("nsenter") and shutil.which("ip")):
        return False
    return subprocess.run([*_unshare(), "sh", "-c", TRIAL], capture_output=True, check=False).returncode == 0


def enclosed() -> bool:
    """Whether this process is in a network of its own."""
    return os.environ.get(ENCLOSED) == "1"


def enclose(command: Sequence[str]) -> None:
    """Go on as this command in a network of one's own."""
    os.environ[ENCLOSED] = "1"
    begun = [*_unshare(), *command]
    os.execv(begun[0], begun)  # noqa: S606 - the same program, elsewhere


class Hosts:
    """A host for every name: hand `place` to a fleet. Nothing passes between two that are cut or one that is unplugged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._holders: dict[str, Program] = {}
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        _ip(["link set lo up", f"link add {BRIDGE} type bridge", f"addr add {NETWORK}.1/24 dev {BRIDGE}"])
        _ip([f"link set {BRIDGE} up"])
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def place(self, name: str) -> Place:
        """Where a program of that name runs: on a host of its own."""
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers) + 2
            self._raise(name)
        return Place(self._address(name), self._inside(name))

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Let nothing pass between two: lost on its way where `silent`, else refused at once."""
        for here, there in ((one, other), (other, one)):
            if silent:
                self._on(here, f"neigh replace {self._address(there)} lladdr {NOBODY} dev eth0 nud permanent")
            else:
                self._on(here, f"route replace unreachable {self._address(there)}")

    def heal(self, one: str, other: str) -> None:
        """Let all pass again."""
        for here, there in ((one, other), (other, one)):
            self._on(here, f"neigh flush {self._address(there)} dev eth0 nud permanent")
            self._on(here, f"route flush exact {self._address(there)} type unreachable")

    def unplug(self, name: str) -> None:
        """Pull a host's cable out."""
        _ip([f"link set {self._line(name)} down"])

    def plug(self, name: str) -> None:
        """Put it in again."""
        _ip([f"link set {self._line(name)} up"])

    def _raise(self, name: str) -> None:
        # A namespace lives as long as a process is in it.
        log = self._folder / f"host-{name}.log"
        holder = Program([*_unshare(), "sleep", "infinity"], os.environ, ROOT, log)
        holder.start()
        self._ending.callback(holder.kill)
        self._holders[name] = holder
        inner = self._namespace(name)
        outer = Path("/proc/self/ns/net").readlink()
        while Path(inner).readlink() == outer:
            os.sched_yield()
        line = self._line(name)
        _ip([f"link add {line} type veth peer name eth0 netns {holder.master.pid}"])
        _ip([f"link set {line} master {BRIDGE} up"])
        self._on(name, "link set lo up", f"addr add {self._address(name)}/24 dev eth0", "link set eth0 up")

    def _on(self, name: str, *commands: str) -> None:
        _ip(commands, self._inside(name))

    def _inside(self, name: str) -> tuple[str, ...]:
        return (_path("nsenter"), f"--net={self._namespace(name)}", "--")

    def _namespace(self, name: str) -> str:
        return f"/proc/{self._holders[name].master.pid}/ns/net"

    def _address(self, name: str) -> str:
        return f"{NETWORK}.{self._numbers[name]}"

    def _line(self, name: str) -> str:
        return f"line{self._numbers[name]}"


def _ip(commands: Sequence[str], within: Sequence[str] = ()) -> None:
    done = subprocess.run(
        [*within, _path("ip"), "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip: {commands}: {done.stderr}")


def _unshare() -> list[str]:
    # Whoever is not root becomes it inside, for this network alone.
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [_path("unshare"), *as_root, "--net"]


def _path(program: str) -> str:
    return shutil.which(program) or program
