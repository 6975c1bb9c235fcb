"""The reconciliation after a run: the operator's commands, which find what no notification has told of."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from tools.chaos.verdict import wait_until_settled
from tools.cluster.processes import ROOT

COMMAND = (sys.executable, "-m", "flask", "--app", "app.main", "payments")
# A payment has one difference after the other, such as a dispute and its end.
ROUNDS = 4
# The exit code of a reconciliation that finds differences.
DIFFERENT = 1
# Time jumps have made payments older than they are.
SINCE = timedelta(days=300)


def reconcile(uri: str, name: str, environ: Mapping[str, str]) -> int:
    """Compares the provider's list with the payments, refreshes those that differ, and waits for it; returns how many there were.

    `environ` has the settings of the server, `uri` and `name` are of its database. Raises CalledProcessError.
    """
    settings = {**os.environ, **environ, "MONGODB_URI": uri, "MONGODB_DATABASE": name, "LOG_LEVEL": "error"}
    since = f"{datetime.now(UTC) - SINCE:%Y-%m-%dT%H:%M:%SZ}"
    found: set[str] = set()
    for _ in range(ROUNDS):
        rows = json.loads(_run(settings, "reconcile", "--since", since, "--json", codes=(0, DIFFERENT)))
        differing = [row["order_id"] for row in rows if row["mend"].startswith("payments refresh")]
        if not differing:
            break
        found.update(differing)
        _run(settings, "refresh", *differing)
        wait_until_settled(uri, name)
    return len(found)


def _run(settings: Mapping[str, str], *arguments: str, codes: Collection[int] = (0,)) -> str:
    """Runs a command; returns what it prints. Raises CalledProcessError if it ends with none of the exit codes."""
    done = subprocess.run(
        [*COMMAND, *arguments], env=dict(settings), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in codes:
        done.check_returncode()
    return done.stdout
