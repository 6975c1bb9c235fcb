"""`python -m tools.bench` measures Orderflow beside its peers; its commands measure one aspect each.

Exit code 1 if a request failed or an order was not settled, 2 if wrk is not installed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from app.storage.embedded_mongod import MongodFailed, MongodMissing
from tools.bench import commands, wrk
from tools.bench.profiling import ProfilingError
from tools.cluster.programs import StartupError

WIDE = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs the command of the command line; returns the exit code."""
    options = commands.parser().parse_args(arguments)
    if not wrk.installed():
        print(wrk.MISSING, file=sys.stderr)
        return 2
    console = _console(options.json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        results, code = options.run(options, console)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (StartupError, ProfilingError, MongodFailed, MongodMissing) as exc:
        console.print(str(exc), style="red", markup=False)
        return 1
    if options.json:
        _write(options.json, results)
    return code


def _console(json_file: Path | None) -> Console:
    json_to_stdout = json_file == Path("-")
    terminal = os.isatty(2 if json_to_stdout else 1)
    return Console(highlight=False, stderr=json_to_stdout, width=None if terminal else WIDE)


def _write(file: Path, results: dict) -> None:
    text = json.dumps(results, indent=2) + "\n"
    if file == Path("-"):
        sys.stdout.write(text)
    else:
        file.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
