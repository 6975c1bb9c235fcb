"""The wheel alone: what it contains, and that it serves from an environment outside of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "gunicorn.conf.py")
PLAIN = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: a build leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "app", folder / "source/app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "dist"]
    subprocess.run([*command, folder / "source"], check=True)
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture
def environment(wheel, tmp_path):
    """The programs of a fresh environment with the wheel; the packages that it needs come from the tests' environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    # As a path only, without the link to the checkout that the tests' environment has.
    paths = sysconfig.get_paths(vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    needed = [path for path in sys.path if path.endswith("site-packages")]
    Path(paths["purelib"], "needed.pth").write_text("\n".join(needed))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, "--ignore-installed", wheel], check=True)
    return tmp_path / "venv/bin"


def test_it_contains_every_file_of_the_application_and_no_other(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "app").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert {"app/py.typed", "app/gateway/console/static/timeline.js"} <= files
    assert {name for name in names if ".dist-info/" not in name and ".data/" not in name} == files
    [version] = {name.partition("/")[0] for name in names if ".data/" in name}
    assert {name for name in names if ".data/" in name} == {f"{version}/data/share/orderflow/gunicorn.conf.py"}


def test_it_has_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    [entry_points] = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "orderflow = app.__main__:main" in archive.read(entry_points).decode()


@pytest.mark.extended
def test_it_serves_alone(environment, tmp_path):
    """With a database of its own, the console and its files, and an order that is paid."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    where = [environment / "python", "-c", "import app; print(app.__file__)"]
    assert subprocess.check_output(where, cwd=folder, env=PLAIN, text=True).startswith(str(tmp_path))
    environ = {
        **PLAIN,
        "PORT": "0",
        "WEB_CONCURRENCY": "1",
        "LOG_FORMAT": "json",
        "ORDERFLOW_DATA": str(folder / "data"),
        "REQUEST_DEADLINE": "10",  # A busy machine may make a command slow.
    }
    command = [environment / "orderflow", "run"]
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            url = next(found[1] for line in server.stderr if (found := re.search(r'open (http://[^\s"]+)', line)))
            page = httpx.get(url, timeout=30)
            assert "<title>" in page.text
            for path in re.findall(r'(?:src|href)="(/[^"]+\.(?:js|css|svg))"', page.text):
                httpx.get(f"{url}{path}", timeout=30).raise_for_status()
            demo = [environment / "orderflow", "demo", "--seconds=60"]
            shown = subprocess.run(demo, cwd=folder, env=environ, capture_output=True, text=True, check=False)
            assert "is now Success" in shown.stdout, shown.stderr
        finally:
            server.terminate()
            server.stderr.close()
    assert server.returncode == 0
