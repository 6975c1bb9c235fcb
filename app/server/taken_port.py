"""What to do when another program holds the port."""

import errno
import socket
import sys

AIRPLAY_PORTS = (5000, 7000)


def taken_port_hint(host: str, port: int, platform: str = sys.platform) -> str:
    """A sentence that says what to do if another program holds the port; empty if it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return ""
        else:
            return ""
    hint = f"another program holds port {port}: stop it, or choose another port, such as PORT={port + 1}"
    if platform == "darwin" and port in AIRPLAY_PORTS:
        hint += (
            "; on macOS it is the AirPlay Receiver, which System Settings > General > AirDrop & Handoff switches off"
        )
    return hint
