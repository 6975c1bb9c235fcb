"""`python -m tools.bench`: how fast Orderflow is beside its peers; `growth`, `matrix` and `profile` look closer.

Exit code 1 where a request failed or an order was not settled, 2 where wrk is missing.
"""

import json
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from app.storage.embedded_mongod import MongodFailed, MongodMissing
from tools.bench import commands, wrk
from tools.bench.processes import NotServing
from tools.bench.profiling import NoProfile

WIDE = 130


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says."""
    given = commands.parser().parse_args(arguments)
    if not wrk.installed():
        print(wrk.MISSING, file=sys.stderr)
        return 2
    console = _console(given.json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found, code = given.run(given, console)
    except KeyboardInterrupt:
        console.print("broken off")
        return 130
    except (NotServing, NoProfile, MongodFailed, MongodMissing) as exc:
        console.print(str(exc), style="red", markup=False)
        return 1
    if given.json:
        _write(given.json, found)
    return code


def _console(json_file: Path | None) -> Console:
    aside = json_file == Path("-")
    terminal = os.isatty(2 if aside else 1)
    return Console(highlight=False, stderr=aside, width=None if terminal else WIDE)


def _write(file: Path, found: dict) -> None:
    text = json.dumps(found, indent=2) + "\n"
    if file == Path("-"):
        sys.stdout.write(text)
    else:
        file.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
