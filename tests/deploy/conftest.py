"""What tests of all clouds need."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gunicorn(tmp_path) -> Callable[..., dict]:
    """What gunicorn makes of its configuration in an environment; in a process of its own, for it sets up that too."""

    def read(**environ: str) -> dict:
        script = (
            f"import json, sys; sys.argv = ['gunicorn', '-c', {str(ROOT / 'gunicorn.conf.py')!r}]\n"
            "from gunicorn.app.wsgiapp import WSGIApplication\n"
            "settings = WSGIApplication().cfg.settings\n"
            "print(json.dumps({name: settings[name].get() for name in ('keepalive', 'graceful_timeout', 'workers')}))"
        )
        environ = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **environ}
        told = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
        return json.loads(told.stdout)

    return read
