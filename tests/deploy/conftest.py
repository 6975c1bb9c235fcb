"""Fixtures for the tests of all deployments."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gunicorn(tmp_path) -> Callable[..., dict]:
    """Reads gunicorn's settings in an environment, in a new process, because the configuration changes its process."""

    def read(**environ: str) -> dict:
        script = (
            f"import json, sys; sys.argv = ['gunicorn', '-c', {str(ROOT / 'gunicorn.conf.py')!r}]\n"
            "from gunicorn.app.wsgiapp import WSGIApplication\n"
            "settings = WSGIApplication().cfg.settings\n"
            "print(json.dumps({name: settings[name].get() for name in ('keepalive', 'graceful_timeout', 'workers')}))"
        )
        environ = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **environ}
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return read
