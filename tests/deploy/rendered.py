"""What Kustomize and Helm make of the files in deploy/, and checks that hold for whatever is made."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Objects = Mapping[tuple[str, str], dict[str, Any]]


def program(name: str) -> str | None:
    """Returns the path of a program: of the environment of the tests, or else of this machine."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def helm_path() -> str:
    """Returns the path of helm. Skips the test where it is missing, but in CI."""
    found = program("helm")
    if found is None and not os.environ.get("CI"):
        pytest.skip("helm is missing: make .venv/bin/helm installs it on Linux x86-64")
    assert found, "helm is missing"
    return found


def by_name(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the objects of a stream of YAML documents by kind and name, each of which must be there once."""
    objects = [one for one in yaml.safe_load_all(text) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects)
    return found


def kustomized(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Builds a Kustomize folder; a warning fails."""
    done = subprocess.run([program("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return by_name(done.stdout)


def is_valid(one: dict[str, Any], kubernetes: str) -> bool:
    """Holds an object against the schema of a version of Kubernetes, which knows all its members; raises if it does not fit."""
    # The package with the schemas takes seconds to import, so only the tests that use it import it.
    import_module("kubernetes_validate").validate(one, kubernetes, strict=True)
    return True


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of every deployment, stateful set and cron job with the specification of its pods."""
    for (kind, name), one in objects.items():
        if kind in ("Deployment", "StatefulSet"):
            yield name, one["spec"]["template"]["spec"]
        elif kind == "CronJob":
            yield name, one["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def environment(objects: Objects, pod: str) -> dict[str, str]:
    """Returns the environment of a pod's one container: config maps first, then its own variables."""
    [found] = dict(pods(objects))[pod]["containers"]
    maps = [objects["ConfigMap", one["configMapRef"]["name"]]["data"] for one in found.get("envFrom", ())]
    return {key: value for data in maps for key, value in data.items()} | {
        one["name"]: one["value"] for one in found.get("env", ())
    }


def image_environment() -> dict[str, str]:
    """Returns what the image itself sets of the server's address."""
    return dict(re.findall(r"(PORT|BIND)=(\S+)", (ROOT / "Dockerfile").read_text()))
