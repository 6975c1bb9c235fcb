"""The machine and the versions that were measured."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec

import psutil

PACKAGES = ("flask", "gunicorn", "gevent", "pymongo", "orjson", "fastapi", "uvicorn", "uvloop")


def facts(mongodb: str = "") -> dict[str, str]:
    """Returns cores, memory, versions, and the load before the run."""
    return {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "mongodb": mongodb,
        "gunicorn's parser": "C (gunicorn_h1c)" if find_spec("gunicorn_h1c") else "Python",
        **{name: _version(name) for name in PACKAGES},
    }


def busy(facts: dict[str, str]) -> bool:
    """Whether other processes used more than a quarter of the cores in the minute before the run."""
    return float(facts["load before"].split()[0]) > int(facts["cores"]) / 4


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
