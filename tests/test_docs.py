"""The documentation against the truth: calls that are shown are made, links lead somewhere, README stays short."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import httpx
import pytest
import yaml

from app.cli.command import CommandRegistry
from app.storage.embedded_mongod import Mongod
from tools.cluster.servers import Server

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
CALLS = (README, ROOT / "docs/api.md")
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
SHOWN_AT = "localhost:7000"
MORE = "…"
# A busy machine may make a command slow.
PATIENT = {"REQUEST_DEADLINE": "10"}

BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)$", re.MULTILINE)
# What differs from run to run. Every order id and refund id stands for one of the run, the others for any of their kind.
VARIES = re.compile(
    r"(?P<id>(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f]))"
    r"|(?P<request>(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f]))"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z)"
)


@dataclass(frozen=True)
class Exchange:
    """A call as it is shown, and the answer below it."""

    page: str
    command: str
    answer: str


def exchanges(page):
    """The calls of curl that a page shows, in their order."""
    for block in BLOCK.findall(page.read_text()):
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = shown.splitlines()
            ends = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
            if lines[0].startswith("curl "):
                command = " ".join(line.rstrip("\\") for line in lines[: ends + 1])
                yield Exchange(page.name, command, "\n".join(lines[ends + 1 :]).strip("\n"))


def request(command):
    """Method, address, headers and body that curl sends, and whether it shows the answer's head (`-i`)."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    for flag in "siN":
        parser.add_argument(f"-{flag}", action="store_true")
    parser.add_argument("address")
    given = parser.parse_args(shlex.split(command)[1:])
    headers = dict(header.split(": ", 1) for header in given.headers)
    if given.body is not None:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    method = given.method or ("GET" if given.body is None else "POST")
    return method, given.address, headers, given.body, given.i


class Comparison:
    """Answers as shown against answers as met; learns which id of the run each id of the page stands for."""

    def __init__(self):
        self.ids = {}

    def met(self, text):
        """The text with the ids of the run in place of those of the page."""
        return VARIES.sub(lambda found: self.ids.get(found[0], found[0]), text)

    def head(self, shown, answer):
        status, *headers = shown.splitlines()
        assert status == f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"
        for name, value in (header.split(": ", 1) for header in headers):
            self.text(value, answer.headers[name])

    def body(self, shown, text, media_type):
        if media_type.endswith("json"):
            self.json(json.loads(marked(" ".join(shown.splitlines()))), json.loads(text))
        elif media_type == "text/event-stream":
            wanted = events(shown)
            for one, other in zip(wanted, events(text)[: len(wanted)], strict=True):
                self.event(one, other)
        elif media_type == "text/csv":
            wanted = [line for line in shown.splitlines() if line != MORE]
            for one, other in zip(wanted, text.splitlines()[: len(wanted)], strict=True):
                self.text(one, other)
        else:
            assert shown.splitlines() == text.splitlines()

    def event(self, shown, met):
        assert shown.keys() == met.keys()
        for name in shown.keys() - {"data"}:
            self.text(shown[name], met[name])
        if "data" in shown:
            self.json(json.loads(marked(shown["data"])), json.loads(met["data"]))

    def json(self, shown, met):
        if isinstance(shown, dict):
            assert isinstance(met, dict)
            assert shown.keys() - {MORE} == (met.keys() & shown.keys() if MORE in shown else met.keys())
            for name in shown.keys() - {MORE}:
                self.json(shown[name], met[name])
        elif isinstance(shown, list):
            assert isinstance(met, list)
            wanted = [one for one in shown if one != MORE]
            assert len(met) == len(wanted) or (MORE in shown and len(met) > len(wanted))
            for one, other in zip(wanted, met, strict=False):
                self.json(one, other)
        elif isinstance(shown, str):
            self.text(shown, met)
        elif isinstance(shown, float):
            assert isinstance(met, float)
        else:
            assert (type(shown), shown) == (type(met), met)

    def text(self, shown, met):
        """The same text but for what varies; `…` stands for any more."""
        assert isinstance(met, str)
        pattern, names = "", []
        for literal, found in parts(shown):
            pattern += re.escape(literal).replace(MORE, ".*")
            if found:
                pattern += f"({kind(found)})"
                names.append(found)
        same = re.fullmatch(pattern, met)
        assert same, (shown, met)
        for one, other in zip(names, same.groups(), strict=True):
            if one.lastgroup == "id":
                assert self.ids.setdefault(one[0], other) == other, (shown, met)


def parts(text):
    """The text between what varies, each with the match that follows it; None follows the last."""
    found = list(VARIES.finditer(text))
    for before, after in pairwise([None, *found, None]):
        yield text[before.end() if before else 0 : after.start() if after else len(text)], after


def kind(found):
    return {"id": "[0-9a-f]{24}", "request": "[0-9a-f]{32}", "time": r"[0-9T:.-]+Z"}[found.lastgroup]


def marked(text):
    """JSON in which `…` stands for more members or elements, with a member or an element for it."""
    text = re.sub(r"([{,])\s*…\s*}", rf'\1"{MORE}": "{MORE}"}}', text)
    return re.sub(r",\s*…\s*]", f', "{MORE}"]', text)


def events(stream):
    """The events of a stream, and what is sent beside them, each as its fields; comments are left out."""
    blocks = [[line for line in block.splitlines() if not line.startswith(":")] for block in stream.split("\n\n")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks if block]


def make(server, comparison, exchange):
    """Make the call that is shown, and hold what is answered against what is shown."""
    method, address, headers, body, with_head = request(comparison.met(exchange.command))
    assert address.startswith(SHOWN_AT), exchange.command
    address = server.url + address.removeprefix(SHOWN_AT)
    shown = exchange.answer
    head, _, shown = shown.partition("\n\n") if with_head else ("", "", shown)
    wanted = events(shown) if headers.get("Accept") == "text/event-stream" else []
    with httpx.stream(method, address, headers=headers, content=body, timeout=30) as answer:
        text = ""
        for chunk in answer.iter_text():
            text += chunk
            if wanted and len(events(text.rpartition("\n\n")[0])) >= len(wanted):
                break
    if with_head:
        comparison.head(head, answer)
    else:
        assert answer.is_success or answer.status_code == json.loads(shown)["status"], text
    comparison.body(shown, text, answer.headers.get("Content-Type", "text/plain").partition(";")[0])


@pytest.fixture
def server(settings, tmp_path):
    """One worker on the test's own database."""
    environ = {"MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, "WEB_CONCURRENCY": "1"}
    with Server(tmp_path, {**environ, **PATIENT, "PAYMENT_BACKOFF": "0.1"}) as running:
        yield running


def test_every_call_that_is_shown_is_answered_as_shown(server, new_order, database, eventually):
    """In the order in which they are shown, each once no order or refund is under way and the live feed knows of it."""

    def settled():
        known = database.stages.distinct("order_id", {"stage": "order updated"})
        under_way = {"$or": [{"orderStatus": "Processing"}, {"refunds.status": "pending"}]}
        return len(known) == database.orders.count_documents({}) and not database.orders.count_documents(under_way)

    for _ in range(2):
        declined = new_order(productId="2", productName="Grinder", totalOrderAmount="RM 50")
        httpx.post(f"{server.url}/orders", json=declined, timeout=30).raise_for_status()
    comparison = Comparison()
    for page in CALLS:
        for exchange in exchanges(page):
            eventually(settled)
            try:
                make(server, comparison, exchange)
            except Exception as exc:
                exc.add_note(f"{exchange.page}: {exchange.command}")
                raise


def test_every_call_is_found():
    shown = [page.read_text().count("$ curl ") for page in CALLS]
    assert all(shown)
    assert [len(list(exchanges(page))) for page in CALLS] == shown


def test_a_call_is_understood_as_curl_understands_it():
    assert request("curl -s localhost:7000/orders/one") == ("GET", "localhost:7000/orders/one", {}, None, False)
    command = 'curl -si -X PUT localhost:7000/orders -H "If-Match: 1" -d "{}"'
    sent = {"Content-Type": "application/x-www-form-urlencoded", "If-Match": "1"}
    assert request(command) == ("PUT", "localhost:7000/orders", sent, "{}", True)


@pytest.mark.parametrize(
    ("shown", "met"),
    [
        ('{"a":1}', '{"a":1,"b":2}'),
        ('{"a":1,"b":2}', '{"a":1}'),
        ('{"a":1}', '{"a":2}'),
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":true}'),
        ('{"a":0.5}', '{"a":1}'),
        ('{"a":"x"}', '{"a":"y"}'),
        ('{"a":"x"}', '{"a":null}'),
        ('{"a":[]}', '{"a":[1]}'),
        ('{"a":[1,2, …]}', '{"a":[1]}'),
        ('{"a":1, …}', '{"b":2}'),
        ('{"at":"2026-11-25T20:09:23.354Z"}', '{"at":"yesterday"}'),
        (f'{{"a":"{"0" * 24}","b":"{"0" * 24}"}}', f'{{"a":"{"1" * 24}","b":"{"2" * 24}"}}'),
    ],
)
def test_an_answer_of_another_shape_is_noticed(shown, met):
    with pytest.raises(AssertionError):
        Comparison().body(shown, met, "application/json")


@pytest.mark.parametrize(
    ("shown", "met"),
    [
        ('{"a":"one\ntwo",\n"b":2}', '{"a":"one two","b":2}'),
        ('{"a":1, …}', '{"a":1,"b":2}'),
        ('{"a":{…}}', '{"a":{"b":2}}'),
        ('{"a":[1, …]}', '{"a":[1,2]}'),
        ('{"a":"x…"}', '{"a":"xyz"}'),
        ('{"tookMs":0.5}', '{"tookMs":7.25}'),
        ('{"at":"2026-11-25T20:09:23.354Z"}', '{"at":"2027-01-01T00:00:00.000Z"}'),
        (f'{{"a":"{"0" * 24}","b":"{"0" * 24}:1"}}', f'{{"a":"{"1" * 24}","b":"{"1" * 24}:1"}}'),
    ],
)
def test_what_differs_from_run_to_run_counts_as_the_same(shown, met):
    Comparison().body(shown, met, "application/json")


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text())
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(text)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page, text):
    """The links of a page's text that lead nowhere."""
    for target in LINK.findall(BLOCK.sub("", text)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or not to.is_relative_to(ROOT) or (anchor and anchor not in anchors(to)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page):
    assert not list(broken(page, page.read_text()))


@pytest.mark.parametrize(
    "target", ["docs/nothing.md", "#nothing", "docs/api.md#nothing", "../README.md", "deploy/mongo/nothing"]
)
def test_a_link_that_leads_nowhere_is_noticed(target):
    assert list(broken(README, f"[there]({target})")) == [target]


def tree_of_the_application():
    """The files and rooms of app/ as the tree in docs/architecture.md names them."""
    [tree] = (block for block in BLOCK.findall(ARCHITECTURE.read_text()) if block.startswith("app/\n"))
    room, found = "", set()
    for line in tree.split("\n\ntests/")[0].splitlines()[1:]:
        name, _, rest = line.strip().partition(" ")
        if line.startswith("  ") and line[2:3].strip():
            room = f"app/{name}" if name.endswith("/") else "app/"
            found.add(f"app/{name}" if name.endswith("/") else f"app/{name}.py")
        elif name:
            found |= {f"{room}{file}.py" for file in [name, *rest.replace("·", " ").split()]}
    return found


def rooms_and_files():
    """The files of app/ without `__init__.py`, and the rooms that have files; those of the top two rooms are named by theirs."""
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "app").rglob("*.py") if file.name != "__init__.py"}
    return files | {f"{file.rpartition('/')[0]}/" for file in files if file.count("/") > 1}


def test_the_tree_names_every_room_and_file_of_the_application():
    assert tree_of_the_application() == rooms_and_files()


def missing_paths(text):
    """The paths and files in backticks that are not there."""
    named = re.findall(r"`((?:app|tests|tools|docs|deploy)/[\w./*-]*|[\w-]+\.(?:yml|cfg|toml|lock)|\.ci/run)`", text)
    return {path for path in named if "NAME" not in path and "NUMBER" not in path and not [*ROOT.glob(path)]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page):
    assert not missing_paths(page.read_text())


def test_a_path_that_does_not_exist_is_noticed():
    assert missing_paths("see `app/main.py`, `app/nothing.py` and `tests/nothing/`") == {
        "app/nothing.py",
        "tests/nothing/",
    }


def test_the_readme_is_read_in_minutes():
    assert len(README.read_text().split()) <= 900


# --- the first minute ---


def typed(page):
    """What a page has its reader type: the lines of its blocks that begin with make, curl or a program of .venv."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").partition("   #")[0].strip()
            if command.startswith(("make ", "curl ", ".venv/bin/")):
                yield command


@pytest.mark.extended
def test_what_the_readme_says_works_in_the_order_in_which_it_stands(tmp_path):
    """From an empty data folder, with the database that `make run` starts, in the shell of the reader."""
    first, *others = typed(README)
    assert first == "make run"
    assert {command.split()[0] for command in others} == {"curl", ".venv/bin/orderflow"}
    environ = {"ORDERFLOW_DATA": str(tmp_path / "data"), "WEB_CONCURRENCY": "1", **PATIENT}
    with Server(tmp_path, environ, command=[sys.executable, "-m", "app", "run"]) as server:
        for command in others:
            line = command.replace(SHOWN_AT, server.url.removeprefix("http://")).replace(
                "curl ", "curl --fail --show-error ", 1
            )
            line = line.replace(".venv/bin/orderflow", f"{sys.executable} -m app")
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=ROOT,
                env={**os.environ, **environ},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_make_run_becomes_the_server_with_the_command():
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]
    assert recipe.splitlines()[1:] == ["\t@exec $(BIN)/orderflow run"]
    assert "requirements-test.lock" not in recipe.splitlines()[0]


def test_a_system_without_the_packages_is_told_of_containers(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nif [ "$2" = venv ]; then mkdir -p $3/bin; ln -s /bin/false $3/bin/pip; fi\n')
    python.chmod(0o755)
    command = ["make", "--no-print-directory", f"PYTHON={python}", f"VENV={tmp_path}/venv", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1].count("'docker compose up'") == 1


def test_a_checkout_on_windows_has_scripts_that_run_in_a_container(tmp_path):
    """git with Windows' setting, which makes CRLF of LF where nobody says otherwise."""
    for name in (".gitattributes", "Makefile", "Dockerfile", "deploy/mongo/make-secrets", "deploy/backup"):
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "there" / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@a.example"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path / "there", check=True)
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", "there", "here"], cwd=tmp_path, check=True)
    for name in ("Makefile", "Dockerfile", "deploy/mongo/make-secrets", "deploy/backup"):
        assert b"\r" not in (tmp_path / "here" / name).read_bytes(), name


# --- at three in the morning ---

NIGHT = ROOT / "docs/3am.md"
ENVIRONMENTS = ["make run", "Docker", "Kubernetes"]
SERVICES = {name for file in ROOT.glob("docker-compose*.yml") for name in yaml.safe_load(file.read_text())["services"]}
WORKLOADS = {
    f"{one['kind'].lower()}/{one['metadata']['name']}"
    for file in (ROOT / "deploy/kubernetes/base").glob("*.yaml")
    for one in yaml.safe_load_all(file.read_text())
    if one["kind"] in ("Deployment", "CronJob")
}


def night_commands():
    """The commands of docs/3am.md as (heading, command, environment)."""
    for heading, text in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", NIGHT.read_text(), re.MULTILINE | re.DOTALL):
        for block in BLOCK.findall(text):
            for line in block.splitlines():
                command, _, environment = line.rpartition("  # ")
                yield heading, command.strip(), environment


def test_every_symptom_and_alert_has_a_command_for_every_environment():
    found = list(night_commands())
    for heading in re.findall(r"^### (.+)$", NIGHT.read_text(), re.MULTILINE):
        environments = [environment for title, _, environment in found if title == heading]
        assert environments in (ENVIRONMENTS, 2 * ENVIRONMENTS), heading
    assert all(command for _, command, _ in found)


def test_every_command_of_the_night_is_one_of_the_application(app, settings, monkeypatch):
    """With all its arguments, each a word that the command understands."""
    # Otherwise the command looks for a running server, and other tests run some.
    monkeypatch.setenv("MONGODB_URI", settings.mongodb_uri)
    application = {
        words
        for _, command, _ in night_commands()
        for words in re.findall(r"(?:/bin/|(?:app|--) )orderflow ([a-z].*)$", command)
    }
    assert {"doctor", "payments list", "orders explain ID"} <= application
    for words in application:
        command = CommandRegistry(lambda: app)
        rest = words.split()
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), rest.pop(0))
            assert command, words
        command.make_context(words, rest)


def test_every_container_and_workload_of_the_night_exists():
    services, workloads = set(), set()
    for _, command, _ in night_commands():
        for words in re.findall(r"docker compose (?:exec|restart|run --rm|logs --since 1h) ([a-z0-9 -]+)", command):
            services |= set(words.split()) - {"orderflow", "rabbitmqctl"} if "logs" in command else {words.split()[0]}
        workloads |= {
            f"deployment/{name}" for name in re.findall(r"\bdeploy(?:ment)?/(\w+)", command) if "kubectl" in command
        }
        workloads |= {f"deployment/{name}" for name in re.findall(r"component=(\w+)", command)}
        workloads |= {f"cronjob/{name}" for name in re.findall(r"cronjob/(\w+)", command)}
    assert services
    assert services <= SERVICES
    assert workloads
    assert workloads <= WORKLOADS | {"deployment/backup", "deployment/restore"}


def test_the_scripts_of_the_night_can_be_run():
    scripts = {script for _, command, _ in night_commands() for script in re.findall(r"^deploy/\w+", command)}
    assert scripts == {"deploy/backup", "deploy/restore"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_every_line_that_the_night_looks_for_is_written_by_the_application():
    source = "\n".join(file.read_text() for file in (ROOT / "app").rglob("*.py"))
    wanted = {text for _, command, _ in night_commands() for text in re.findall(r'grep (?:-E )?"(.+?)"', command)}
    assert wanted
    missing = [line for text in wanted for line in text.split("|") if f'"{line}' not in source]
    assert missing == []


def night_searches():
    """By heading, the patterns that docs/3am.md looks for in the log, one for each environment."""
    found = {}
    for heading, command, _ in night_commands():
        for pattern in re.findall(r'grep (?:-E )?"(.+?)"', command):
            found.setdefault(heading, []).append(pattern)
    return found


def test_the_night_looks_for_the_same_lines_in_every_environment():
    searches = night_searches()
    assert searches
    assert {heading for heading, patterns in searches.items() if len(patterns) not in (1, len(ENVIRONMENTS))} == set()
    assert {heading for heading, patterns in searches.items() if len({*patterns}) != 1} == set()


@pytest.mark.extended
def test_in_an_outage_of_the_database_the_night_finds_lines_that_say_so(tmp_path, new_order, eventually):
    """The log of a server at the settings' defaults, whose database dies; then what the page says is typed."""
    database, log = Mongod(tmp_path / "data"), tmp_path / "server.log"
    with (
        database,
        Server(tmp_path, {"MONGODB_URI": database.uri, "WEB_CONCURRENCY": "1", "LOG_LEVEL": "info"}) as server,
    ):
        eventually(lambda: httpx.post(f"{server.url}/orders", json=new_order(), timeout=30).is_success)
        (tmp_path / "orderflow.log").symlink_to(log)
        before = log.stat().st_size
        database.kill()
        refused = httpx.post(f"{server.url}/orders", json=new_order(), timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert httpx.get(f"{server.url}/readyz", timeout=30).json()["part"] == "database"
        outage = tmp_path / "outage.log"

        def finds(pattern):
            outage.write_bytes(log.read_bytes()[before:])
            done = subprocess.run(["grep", "-E", pattern, outage], capture_output=True, text=True, check=False)
            return done.stdout.splitlines()

        for heading in ("Clients get 503", "OrderflowHttpErrors", "OrderflowDatabaseErrors"):
            [pattern] = {*night_searches()[heading]}
            lines = eventually(lambda pattern=pattern: finds(pattern))
            assert any("database" in line for line in lines), (heading, lines)
        [command] = [
            command
            for heading, command, environment in night_commands()
            if (heading, environment) == ("Clients get 503", "make run")
        ]

        def typed_there():
            done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
            return done.stdout

        eventually(lambda: '"status":503' in typed_there())


@pytest.mark.extended
def test_the_settings_of_development_start_a_server_that_accepts_the_token_of_the_command(tmp_path, settings):
    """The four lines of docs/security.md, and the command below them."""
    blocks = BLOCK.findall((ROOT / "docs/security.md").read_text())
    [lines] = [block for block in blocks if "HS256" in block]
    [command] = [block.strip() for block in blocks if "orderflow token" in block]
    identity = dict(line.split("=", 1) for line in lines.splitlines())
    environ = {
        **identity,
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "WEB_CONCURRENCY": "1",
        **PATIENT,
    }
    with Server(tmp_path, environ) as server:
        words = command.replace(".venv/bin/orderflow", f"{sys.executable} -m app").split()
        made = subprocess.run(
            words, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=True
        )
        headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        assert httpx.get(f"{server.url}/orders", timeout=30).status_code == 401
        assert httpx.get(f"{server.url}/orders", headers=headers, timeout=30).json()["ok"]
