"""The architecture: who may import what, that the rules can fail, and that imports have no effects."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from app.contracts import Event, concrete
from app.main import runtime

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"
FILES = sorted(APP.rglob("*.py"))
MODULES = ("orders", "payments", "gateway")
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

STRANGERS, DOWNWARDS, PURE, WIRE = "strangers", "downwards", "pure", "wire"
TRANSPORT, HTTP, STORAGE = "transport", "http", "storage"


def name_of(rule: str) -> str:
    """The sentence that stands for a rule."""
    rules = ConfigParser()
    rules.read(ROOT / "setup.cfg")
    return rules[f"importlinter:contract:{rule}"]["name"]


def lint_imports(folder: Path, *rules: str) -> tuple[int, str]:
    """How import-linter ends in a folder, and what it says; of some rules or of all."""
    only = [word for rule in rules for word in ("--contract", rule)]
    done = subprocess.run([LINT_IMPORTS, "--no-cache", *only], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def fresh(program: str, cwd: Path = ROOT) -> str:
    """What a program prints in a new interpreter."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the application and its rules, to break."""
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def test_the_rules_are_kept():
    code, told = lint_imports(ROOT)
    assert code == 0, told


def test_the_rules_are_kept_in_a_copy_too(copy):
    code, told = lint_imports(copy)
    assert code == 0, told


@pytest.mark.parametrize(
    ("file", "breach", "rule"),
    [
        ("orders/handlers.py", "from app.payments import payment", STRANGERS),
        ("orders/order.py", "import app.gateway.money", STRANGERS),
        ("payments/worker.py", "import app.orders.order", STRANGERS),
        ("gateway/routes.py", "from app.orders.order import TABLE", STRANGERS),
        ("orders/handlers.py", "def late():\n    import app.payments", STRANGERS),
        (
            "orders/handlers.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import app.payments",
            STRANGERS,
        ),
        ("orders/handlers.py", "import app.main", DOWNWARDS),
        ("outbox.py", "import app.orders", DOWNWARDS),
        ("bus.py", "import app.outbox", DOWNWARDS),
        ("coalesce.py", "import app.database", DOWNWARDS),
        ("contracts.py", "import app.bus", DOWNWARDS),
        ("orders/order.py", "import pymongo", PURE),
        ("payments/payment.py", "from bson import ObjectId", PURE),
        ("contracts.py", "import msgspec", PURE),
        ("orders/handlers.py", "import blinker", WIRE),
        ("outbox.py", "from blinker import signal", WIRE),
        ("payments/handlers.py", "import flask", HTTP),
        ("bus.py", "from flask import g", HTTP),
        ("orders/repository.py", "from werkzeug.exceptions import NotFound", HTTP),
        ("orders/handlers.py", "import kombu", TRANSPORT),
        ("outbox.py", "import amqp", TRANSPORT),
        ("broker.py", "import blinker", WIRE),
        ("gateway/routes.py", "import pymongo", STORAGE),
        ("orders/handlers.py", "from bson import ObjectId", STORAGE),
        ("main.py", "from pymongo import MongoClient", STORAGE),
    ],
)
def test_every_rule_can_be_broken(copy, file, breach, rule):
    with (copy / "app" / file).open("a") as source:
        source.write(f"\n{breach}\n")
    code, told = lint_imports(copy, rule)
    assert code == 1
    assert f"{name_of(rule)} BROKEN" in told


def test_a_new_file_must_declare_its_layer(copy):
    (copy / "app" / "utils.py").write_text("")
    code, told = lint_imports(copy)
    assert code == 1
    assert "app.utils" in told


def test_a_detour_through_a_new_file_is_seen(copy):
    with (copy / "app" / "story.py").open("a") as source:
        source.write("\nimport app.orders.order\n")
    code, told = lint_imports(copy)
    assert code == 1
    assert f"{name_of(STRANGERS)} BROKEN" in told


@pytest.mark.parametrize("module", MODULES)
def test_a_module_starts_alone(module):
    loaded = fresh(f"import sys, app.{module}; print(*sys.modules)").split()
    assert f"app.{module}" in loaded
    strangers = {f"app.{other}" for other in MODULES} - {f"app.{module}"}
    assert not strangers & set(loaded)


@pytest.mark.parametrize("module", ["contracts", "orders.order", "payments.payment"])
def test_the_domain_loads_no_framework_driver_or_transport(module):
    # The package around a domain file wires it up, so the file is run by itself.
    file = APP / f"{module.replace('.', '/')}.py"
    program = f"import runpy, sys; runpy.run_path({str(file)!r}); print(*sys.modules)"
    loaded = set(fresh(program).split())
    assert not loaded & {"blinker", "flask", "gevent", "marshmallow", "msgspec", "pymongo", "bson", "structlog"}


def test_the_first_file_imports_nothing():
    assert list(imports(APP / "__init__.py")) == []


# Sees whatever opens a socket or starts a thread, even one that has ended by the time anybody looks.
WATCH = """
import os, sys, threading
seen = []
effects = ("socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork")
sys.addaudithook(lambda name, arguments: name in effects and seen.append(name))
really_start = threading.Thread.start
threading.Thread.start = lambda thread: seen.append("thread") or really_start(thread)
"""
TELL = """
print("effects:", *seen, *threading.enumerate()[1:])
import socket
socket.socket().close()
threading.Thread(target=len, args=("",)).start()
print("would be seen:", *seen[-2:])
"""
NO_EFFECT = "effects:\nwould be seen: socket.__new__ thread\n"


def test_importing_any_file_opens_no_socket_and_starts_no_thread():
    every_import = "".join(f"import {dotted(file)}\n" for file in FILES)
    assert fresh(WATCH + every_import + TELL) == NO_EFFECT


def test_making_the_application_opens_no_socket_and_starts_no_thread(tmp_path):
    make = """
from app.main import create_app
create_app()
"""
    assert fresh(WATCH + make + TELL, cwd=tmp_path) == NO_EFFECT
    assert list(tmp_path.iterdir()) == []


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    """The top packages a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "app" if node.level else node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield "dynamic"


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def importers(*packages: str) -> set[str]:
    return {path(file) for file in FILES if set(packages) & set(imports(file))}


def path(file: Path) -> str:
    return file.relative_to(APP).as_posix()


def test_only_the_bus_imports_blinker():
    assert importers("blinker") == {"bus.py"}


def test_only_the_gateway_and_the_composition_root_import_flask():
    beside = {name for name in importers("flask", "werkzeug", "marshmallow") if not name.startswith("gateway/")}
    assert "main.py" in beside
    assert {name for name in beside if not name.startswith("cli/")} == {"main.py"}


def test_only_repositories_and_the_connection_import_pymongo():
    assert importers("pymongo", "bson") <= {
        "database.py",
        "doctor.py",
        "embedded.py",
        "feed.py",
        "outbox.py",
        "quota.py",
        "orders/repository.py",
        "orders/watch.py",
        "payments/repository.py",
        "payments/providers/ledger.py",
    }


def test_nothing_is_imported_under_a_name_made_up_at_run_time():
    assert importers("dynamic") == set()


def test_only_the_relay_publishes_and_the_broker_what_a_relay_elsewhere_has_published():
    publishers = {
        path(file)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and called(node) == "publish"
    }
    assert publishers == {"outbox.py", "broker.py"}


def test_whoever_must_hear_an_event_subscribes_to_it(app):
    assert {kind.__name__: set(kind.heard_by) for kind in concrete(Event)} == runtime(app).bus.subscribers


def test_only_the_gateway_and_the_commands_are_given_the_face_of_the_bus_that_asks():
    askers = {
        path(file)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and "Asks" in {alias.name for alias in node.names}
    }
    assert askers
    assert all(name.startswith(("gateway/", "cli/")) for name in askers)


def test_every_file_says_in_one_line_what_it_is_for():
    for file in FILES:
        assert ast.get_docstring(ast.parse(file.read_text())), path(file)
