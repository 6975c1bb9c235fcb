"""Virtual hosts on this machine: network namespaces with an address each, on one bridge, whose links can be cut.

All of them exist in a network namespace of this process (`enter_namespace`) and disappear with it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tools.cluster.processes import ROOT
from tools.cluster.programs import Host, Program

NETWORK = "10.77.0"
# At which the virtual hosts reach this process.
BRIDGE_ADDRESS = f"{NETWORK}.1"
BRIDGE = "hosts"
UNUSED_MAC = "02:00:00:00:ff:ff"
IN_NAMESPACE = "ORDERFLOW_NETWORK_NAMESPACE"
PROBE = "ip link add bridge0 type bridge && ip link add line0 type veth peer name line1"
NOT_PERMITTED = (
    "network namespaces are not permitted here, or iproute2 is missing (on Debian: apt-get install iproute2)"
)


def namespaces_permitted() -> bool:
    """Whether network namespaces, bridges and virtual links can be made here."""
    if not (shutil.which("unshare") and shutil.which("nsenter") and shutil.which("ip")):
        return False
    return subprocess.run([*_unshare(), "sh", "-c", PROBE], capture_output=True, check=False).returncode == 0


def in_namespace() -> bool:
    """Whether this process runs in a network namespace of its own."""
    return os.environ.get(IN_NAMESPACE) == "1"


def enter_namespace(command: Sequence[str]) -> None:
    """Replaces this process by the command, in a new network namespace."""
    os.environ[IN_NAMESPACE] = "1"
    unshared = [*_unshare(), *command]
    os.execv(unshared[0], unshared)  # noqa: S606 - the same program in another namespace


class VirtualHosts:
    """One virtual host for each program of a cluster, made on demand by `host_of`, with links that can be cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host_numbers: dict[str, int] = {}
        self._namespace_holders: dict[str, Program] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        _ip(["link set lo up", f"link add {BRIDGE} type bridge", f"addr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}"])
        _ip([f"link set {BRIDGE} up"])
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def host_of(self, name: str) -> Host:
        """Returns the host of a program; makes it at the first call."""
        if name not in self._host_numbers:
            self._host_numbers[name] = len(self._host_numbers) + 2
            self._create(name)
        return Host(self._address(name), self._prefix(name))

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Cuts the link between two hosts: packets are dropped if `silent`, else rejected at once."""
        for source, target in ((one, other), (other, one)):
            if silent:
                self._ip_on(source, f"neigh replace {self._address(target)} lladdr {UNUSED_MAC} dev eth0 nud permanent")
            else:
                self._ip_on(source, f"route replace unreachable {self._address(target)}")

    def heal(self, one: str, other: str) -> None:
        """Restores the link."""
        for source, target in ((one, other), (other, one)):
            self._ip_on(source, f"neigh flush {self._address(target)} dev eth0 nud permanent")
            self._ip_on(source, f"route flush exact {self._address(target)} type unreachable")

    def disconnect(self, name: str) -> None:
        """Takes the network interface of a host down."""
        _ip([f"link set {self._interface(name)} down"])

    def reconnect(self, name: str) -> None:
        """Takes it up again."""
        _ip([f"link set {self._interface(name)} up"])

    def _create(self, name: str) -> None:
        # A namespace exists as long as a process is in it.
        log = self._folder / f"host-{name}.log"
        holder = Program([*_unshare(), "sleep", "infinity"], os.environ, ROOT, log)
        holder.start()
        self._cleanup.callback(holder.kill)
        self._namespace_holders[name] = holder
        inner = self._namespace(name)
        outer = Path("/proc/self/ns/net").readlink()
        while Path(inner).readlink() == outer:
            os.sched_yield()
        interface = self._interface(name)
        _ip([f"link add {interface} type veth peer name eth0 netns {holder.master.pid}"])
        _ip([f"link set {interface} master {BRIDGE} up"])
        self._ip_on(name, "link set lo up", f"addr add {self._address(name)}/24 dev eth0", "link set eth0 up")

    def _ip_on(self, name: str, *commands: str) -> None:
        _ip(commands, self._prefix(name))

    def _prefix(self, name: str) -> tuple[str, ...]:
        return (_path("nsenter"), f"--net={self._namespace(name)}", "--")

    def _namespace(self, name: str) -> str:
        return f"/proc/{self._namespace_holders[name].master.pid}/ns/net"

    def _address(self, name: str) -> str:
        return f"{NETWORK}.{self._host_numbers[name]}"

    def _interface(self, name: str) -> str:
        return f"line{self._host_numbers[name]}"


def _ip(commands: Sequence[str], within: Sequence[str] = ()) -> None:
    done = subprocess.run(
        [*within, _path("ip"), "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip: {commands}: {done.stderr}")


def _unshare() -> list[str]:
    # A user other than root becomes root inside the namespace only.
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [_path("unshare"), *as_root, "--net"]


def _path(program: str) -> str:
    return shutil.which(program) or program
