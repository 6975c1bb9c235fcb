"""The TypeScript client that openapi-typescript makes of the served document: checked strictly by tsc, run by Node on a live server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tools.cluster.servers import Server

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests/standins/typescript"
INSTALLED = ROOT / ".venv/standins/typescript"
MISSING = "the compiler of TypeScript is not installed: make standins (needs npm)"
PAGE = (ROOT / "docs/front-ends.md").read_text()
SHOWN_AT = "http://localhost:7000"
SECONDS = 120


@pytest.fixture
def server(settings, tmp_path):
    """One worker on the test's own database, with the simulated provider."""
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "WEB_CONCURRENCY": "1",
        "REQUEST_DEADLINE": "10",
    }
    with Server(tmp_path / "server", environ) as running:
        yield running


def run(folder, *command, **environ):
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def folder(server, tmp_path):
    """A folder of a project with the types that the page's own command makes."""
    if not (INSTALLED / "node_modules").exists() or shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    project = tmp_path / "project"
    project.mkdir()
    (project / "node_modules").symlink_to(INSTALLED / "node_modules")
    (project / "package.json").write_text('{"type": "module"}')
    shutil.copy(PROGRAMS / "tsconfig.json", project)
    (project / "openapi.json").write_bytes(httpx.get(f"{server.url}/api-json", timeout=30).content)
    [options] = re.findall(rf"^npx openapi-typescript {SHOWN_AT}/api-json (.+)$", PAGE, re.MULTILINE)
    made = run(project, "node_modules/.bin/openapi-typescript", "openapi.json", *options.split())
    assert made.returncode == 0, made.stdout + made.stderr
    return project


def compiled(project, name, source):
    """The output of the compiler for a program; empty if it finds nothing."""
    (project / f"{name}.ts").write_text(source)
    checked = run(project, "node_modules/.bin/tsc")
    assert (checked.returncode == 0) == (checked.stdout == "")
    return checked.stdout


def shown():
    [source] = re.findall(r"^```typescript\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return source


def test_a_client_made_of_the_document_does_what_the_documentation_shows(folder, server):
    assert compiled(folder, "shop", (PROGRAMS / "shop.ts").read_text()) == ""
    done = run(folder, "node", "made/shop.js", ORDERFLOW_URL=server.url)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_lines_that_the_page_shows_place_an_order(folder, server):
    assert compiled(folder, "shown", shown().replace(SHOWN_AT, server.url)) == ""
    done = run(folder, "node", "made/shown.js")
    assert (done.returncode, done.stdout) == (0, "Success\n"), done.stderr


MISTAKES = {
    "member": ("totalOrderAmount:", "totalOrderAmont:"),
    "address": ('"/orders"', '"/order"'),
    "method": ("orderflow.POST", "orderflow.PATCH"),
    "answer": ("order?.orderStatus", "order?.status"),
    "kind": ('productId: "1"', "productId: 1"),
}


def test_what_the_document_does_not_have_does_not_compile(folder):
    for name, (right, wrong) in MISTAKES.items():
        assert shown().count(right) == 1
        (folder / f"{name}.ts").write_text(shown().replace(right, wrong))
    found = compiled(folder, "right", shown())
    assert {line.partition(".ts(")[0] for line in found.splitlines() if ".ts(" in line} == {*MISTAKES}
