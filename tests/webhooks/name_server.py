"""A DNS server on this machine, whose answers a test decides."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
from dns.rdatatype import RdataType

# Lines of a zone for a name, such as ("A 192.0.2.7",); None for no answer at all. Called with how often it was asked before.
Lines = tuple[str, ...] | None


@dataclass
class NameServer:
    """Answers for the `names`; any other name does not exist. Every record is to be forgotten at once."""

    names: dict[str, Lines | Callable[[int], Lines]]
    port: int = 0
    questions: list[tuple[str, str]] = field(default_factory=list)

    def resolver(self) -> dns.resolver.Resolver:
        """What asks this server, and no other."""
        made = dns.resolver.Resolver(configure=False)
        made.nameservers, made.port = ["127.0.0.1"], self.port
        # It asks once, however late the answer is on a busy machine.
        made.timeout = 60.0
        return made

    def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        [question] = query.question
        name, kind = question.name.to_text().rstrip("."), RdataType(question.rdtype).name
        before = self.questions.count((name, kind))
        self.questions.append((name, kind))
        lines = self.names.get(name, ())
        lines = lines(before) if callable(lines) else lines
        if lines is None:
            return None
        response = dns.message.make_response(query)
        if name not in self.names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for owner, record, value in (_parts(question.name.to_text(), line) for line in lines):
            if record in (kind, "CNAME") or owner != question.name.to_text():
                response.answer.append(dns.rrset.from_text(owner, 0, "IN", record, value))
        return response


def _parts(name: str, line: str) -> tuple[str, str, str]:
    """Owner, type and value of "A 192.0.2.7" or "inside.example. A 10.0.0.1"."""
    parts = line.split()
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (name, parts[0], parts[1])


@contextmanager
def serving(**names: Lines | Callable[[int], Lines]) -> Iterator[NameServer]:
    """Serve DNS on a free port; underscores in the names stand for dots."""
    server = NameServer({name.replace("_", "."): lines for name, lines in names.items()})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)
        server.port = sock.getsockname()[1]
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                try:
                    wire, client = sock.recvfrom(4096)
                except TimeoutError:
                    continue
                response = server.answer(dns.message.from_wire(wire))
                if response:
                    sock.sendto(response.to_wire(), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stopping.set()
            thread.join()
