"""The import rules, that each of them can fail, and that imports have no effects."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from app.contracts.base import Event, concrete_subclasses
from app.main import runtime

ROOT = Path(__file__).parents[1]
APP = ROOT / "app"
FILES = sorted(APP.rglob("*.py"))
MODULES = ("orders", "payments", "webhooks", "gateway")
# What each of the tools may import of the others.
TOOLS = {
    "auditor": set(),
    "cluster": set(),
    "chaos": {"auditor", "cluster"},
    "bench": {"cluster"},
    "simulation": {"auditor"},
}
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

# The packages and rooms that the pure files may import besides the standard library.
PURE = {
    "contracts/base.py": {"msgspec"},
    "contracts/orders.py": {"msgspec", "app.contracts"},
    "contracts/payments.py": {"msgspec", "app.contracts"},
    "contracts/webhooks.py": {"msgspec", "app.contracts"},
    "orders/changes.py": {"app.contracts", "app.orders"},
    "webhooks/delivery.py": set(),
    "webhooks/public_addresses.py": {"app.addresses"},
    "orders/order.py": {"app.contracts", "app.orders"},
    "orders/refunds.py": set(),
    "payments/charge_outcomes.py": {"app.contracts", "app.payments"},
    "payments/payment.py": {"app.contracts", "app.payments"},
    "payments/payment_commands.py": {"app.contracts", "app.payments"},
    "payments/provider_calls.py": {"app.contracts", "app.payments"},
    "payments/provider_record.py": {"app.contracts", "app.payments"},
    "payments/provider_responses.py": {"app.contracts", "app.payments"},
    "payments/refund_outcomes.py": {"app.contracts", "app.payments"},
    "payments/provider_port.py": set(),
}


def name_of(rule: str) -> str:
    """Returns the sentence of a rule in setup.cfg."""
    rules = ConfigParser()
    rules.read(ROOT / "setup.cfg")
    return rules[f"importlinter:contract:{rule}"]["name"]


def lint_imports(folder: Path, *rules: str) -> tuple[int, str]:
    """Runs import-linter in a folder, on some rules or all; returns its exit code and output."""
    only = [word for rule in rules for word in ("--contract", rule)]
    done = subprocess.run([LINT_IMPORTS, "--no-cache", *only], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def output_of(program: str, cwd: Path = ROOT) -> str:
    """Runs a program in a new interpreter and returns its output."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the application and its rules, for a test to break."""
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def test_the_rules_are_kept():
    code, output = lint_imports(ROOT)
    assert code == 0, output


def test_the_rules_are_kept_in_a_copy_too(copy):
    code, output = lint_imports(copy)
    assert code == 0, output


@pytest.mark.parametrize(
    ("rule", "file", "breach"),
    [
        ("modules", "orders/service.py", "from app.payments import payment"),
        ("modules", "orders/order.py", "import app.gateway.http.money"),
        ("modules", "payments/worker.py", "import app.orders.order"),
        ("modules", "webhooks/service.py", "import app.orders.order"),
        ("modules", "orders/subscribers.py", "import app.webhooks.endpoint"),
        ("modules", "gateway/routes/orders.py", "from app.orders.order import TABLE"),
        ("modules", "orders/service.py", "def late():\n    import app.payments"),
        (
            "modules",
            "orders/service.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import app.payments",
        ),
        ("layers", "orders/service.py", "import app.main"),
        ("layers", "messaging/outbox.py", "import app.orders"),
        ("layers", "storage/mongodb.py", "import app.messaging.outbox"),
        ("layers", "observability/metrics.py", "import app.storage.mongodb"),
        ("layers", "contracts/base.py", "import app.observability.logging"),
        ("signals", "messaging/outbox.py", "from blinker import signal"),
        ("signals", "messaging/rabbitmq/bus.py", "import blinker"),
        ("amqp", "messaging/outbox.py", "import amqp"),
        ("amqp", "orders/service.py", "import kombu"),
        ("http", "payments/service.py", "import flask"),
        ("http", "messaging/bus.py", "from flask import g"),
        ("http", "orders/repository.py", "from werkzeug.exceptions import NotFound"),
        ("http", "contracts/base.py", "import marshmallow"),
        ("server", "gateway/routes/orders.py", "import gevent"),
        ("server", "main.py", "import gunicorn"),
        ("mongodb", "gateway/routes/orders.py", "import pymongo"),
        ("mongodb", "orders/service.py", "from bson import ObjectId"),
        ("mongodb", "payments/payment.py", "from bson import ObjectId"),
        ("mongodb", "main.py", "from pymongo import MongoClient"),
        ("stripe", "payments/worker.py", "import stripe"),
        ("stripe", "payments/providers/simulated.py", "from stripe import StripeClient"),
        ("webhooks", "orders/service.py", "import httptools"),
        ("webhooks", "payments/providers/simulated.py", "from cryptography import x509"),
        ("telemetry", "orders/order.py", "import structlog"),
        ("telemetry", "payments/worker.py", "import prometheus_client"),
        ("telemetry", "gateway/routes/orders.py", "import opentelemetry"),
        ("terminal", "doctor.py", "import rich"),
        ("terminal", "main.py", "import click"),
    ],
)
def test_every_rule_can_be_broken(copy, rule, file, breach):
    with (copy / "app" / file).open("a") as source:
        source.write(f"\n{breach}\n")
    code, output = lint_imports(copy, rule)
    assert code == 1
    assert f"{name_of(rule)} BROKEN" in output


def test_every_rule_of_the_linter_is_broken_by_a_test_above():
    rules = ConfigParser()
    rules.read(ROOT / "setup.cfg")
    names = {name.rpartition(":")[2] for name in rules.sections() if name.startswith("importlinter:contract:")}
    [broken] = (mark for mark in test_every_rule_can_be_broken.pytestmark if mark.name == "parametrize")
    assert {rule for rule, *_ in broken.args[1]} == names


@pytest.mark.parametrize("file", PURE)
def test_the_domain_and_the_messages_import_no_framework_driver_or_transport(file):
    assert imported_packages(ast.parse((APP / file).read_text())) <= PURE[file]


@pytest.mark.parametrize(
    "breach", ["import pymongo", "def late():\n    from app.storage import mongodb", "import httpx as os"]
)
def test_an_import_of_a_pure_file_is_seen(breach):
    assert imported_packages(ast.parse(breach)) - {"msgspec", "app.contracts"}


def imported_packages(tree: ast.AST) -> set[str]:
    """Returns the imported packages outside of the standard library; for `app` the room, such as `app.storage`."""
    names = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    roots = {".".join(name.split(".")[: 2 if name.startswith("app.") else 1]) for name in names}
    return {root for root in roots if root not in sys.stdlib_module_names}


def test_a_new_file_must_declare_its_layer(copy):
    (copy / "app" / "utils.py").write_text("")
    code, output = lint_imports(copy)
    assert code == 1
    assert "app.utils" in output


def test_a_detour_through_a_new_file_is_seen(copy):
    with (copy / "app" / "observability" / "stages.py").open("a") as source:
        source.write("\nimport app.orders.order\n")
    code, output = lint_imports(copy)
    assert code == 1
    assert f"{name_of('modules')} BROKEN" in output


@pytest.mark.parametrize("module", MODULES)
def test_a_module_starts_alone(module):
    loaded = output_of(f"import sys, app.{module}; print(*sys.modules)").split()
    assert f"app.{module}" in loaded
    strangers = {f"app.{other}" for other in MODULES} - {f"app.{module}"}
    assert not strangers & set(loaded)


def test_the_first_file_imports_nothing():
    assert list(imports(APP / "__init__.py")) == []


# A library that Stripe's imports tries whether this machine has IPv6.
FOREIGN = "import stripe\n"
# Records each opened socket and each started thread, also one that has already ended.
RECORD = """
import os, sys, threading
seen = []
effects = ("socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork")
sys.addaudithook(lambda name, arguments: name in effects and seen.append(name))
really_start = threading.Thread.start
threading.Thread.start = lambda thread: seen.append("thread") or really_start(thread)
"""
PRINT = """
print("effects:", *seen, *threading.enumerate()[1:])
import socket
socket.socket().close()
threading.Thread(target=len, args=("",)).start()
print("recorded:", *seen[-2:])
"""
NO_EFFECT = "effects:\nrecorded: socket.__new__ thread\n"


def test_importing_any_file_opens_no_socket_and_starts_no_thread():
    every_import = "".join(f"import {dotted(file)}\n" for file in FILES)
    assert output_of(FOREIGN + RECORD + every_import + PRINT) == NO_EFFECT


def test_making_the_application_opens_no_socket_and_starts_no_thread(tmp_path):
    make = """
from app.main import create_app
create_app()
"""
    assert output_of(RECORD + make + PRINT, cwd=tmp_path) == NO_EFFECT
    assert list(tmp_path.iterdir()) == []


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    """Returns the top packages that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "app" if node.level else node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield "dynamic"


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def path(file: Path) -> str:
    return file.relative_to(APP).as_posix()


def test_no_import_has_a_name_that_is_computed_at_run_time():
    assert not [path(file) for file in FILES if "dynamic" in imports(file)]


def test_only_the_relay_publishes_and_rabbitmq_what_a_relay_of_another_process_published():
    publishers = {
        path(file)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and called(node) == "publish"
    }
    assert publishers == {"messaging/relay.py", "messaging/rabbitmq/bus.py", "messaging/rabbitmq/consumer.py"}


def test_the_required_consumers_of_an_event_subscribe_to_it(app):
    assert {kind.__name__: set(kind.required_consumers) for kind in concrete_subclasses(Event)} == runtime(
        app
    ).bus.subscribers


def test_only_the_gateway_the_commands_and_who_is_told_use_the_request_client():
    """Orders ask webhooks who wants to hear of changes, and others to erase; webhooks ask orders what an order is."""
    users = {
        path(file)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and "RequestClient" in {alias.name for alias in node.names}
    }
    assert users
    others = {"orders/subscribers.py", "orders/erasures.py", "webhooks/service.py"}
    assert {name for name in users if not name.startswith(("gateway/", "cli/"))} == others


def imported_tools(file: Path) -> set[str]:
    """Returns the packages of tools/ that a file imports; `tools` for the root itself."""
    names = {
        name
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    return {name.split(".")[1] if "." in name else name for name in names if name.split(".")[0] == "tools"}


@pytest.mark.parametrize("package", TOOLS)
def test_the_tools_import_only_cluster_of_one_another(package):
    files = sorted((ROOT / "tools" / package).rglob("*.py"))
    assert files
    assert {
        file.name: imported_tools(file) - {package}
        for file in files
        if imported_tools(file) - TOOLS[package] - {package}
    } == {}


def test_the_auditor_imports_nothing_of_what_it_judges():
    files = sorted((ROOT / "tools/auditor").rglob("*.py"))
    assert {name for file in files for name in imports(file)} <= {
        "collections",
        "dataclasses",
        "itertools",
        "json",
        "typing",
        "tools",
    }


def test_every_tool_has_its_rule():
    assert {folder.name for folder in (ROOT / "tools").iterdir() if (folder / "__init__.py").exists()} == {*TOOLS}


@pytest.mark.parametrize("breach", ["from tools.chaos import audit", "import tools.chaos", "from tools import chaos"])
def test_an_import_of_another_tool_is_seen(tmp_path, breach):
    file = tmp_path / "file.py"
    file.write_text(f"def late():\n    {breach}\n")
    assert imported_tools(file) == {"chaos"}


def test_the_application_imports_neither_tools_nor_tests():
    assert not [path(file) for file in FILES if {"tools", "tests"} & {*imports(file)}]


def test_every_file_says_in_one_line_what_it_is_for():
    for file in [*FILES, *sorted((ROOT / "tools").rglob("*.py"))]:
        assert ast.get_docstring(ast.parse(file.read_text())), file
