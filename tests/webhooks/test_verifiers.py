"""What the sender sends over HTTP is verified by libraries that we did not write, and by what docs/webhooks.md shows."""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import standardwebhooks.webhooks
import svix.webhooks

from app.contracts.webhooks import RotateSecret
from tests.webhooks.conftest import a_change
from tests.webhooks.receiver import Received

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/webhooks.md").read_text()
RECEIVERS = ROOT / ".venv/standins/webhooks"
MISSING = "the receivers of webhooks are not installed: make standins (needs npm)"
OTHER = f"whsec_{base64.b64encode(bytes(32)).decode()}"
FROM_PYPI = {"standardwebhooks": standardwebhooks.webhooks, "svix": svix.webhooks}
FROM_NPM = ("standardwebhooks", "svix")
NODE = """
import {{ Webhook }} from "{library}";
const {{ secret, body, headers }} = JSON.parse(await new Response(process.stdin).text());
console.log(new Webhook(secret).verify(body, headers).type);
"""
HANDLE = """
import {{ handle }} from "{module}";
const {{ body, headers }} = JSON.parse(await new Response(process.stdin).text());
console.log(handle(body, headers).type);
"""


@dataclass(frozen=True)
class Sent:
    """A request as a receiver got it, and the secrets that verify it: the newest first."""

    request: Received
    secrets: tuple[str, ...]

    def changed(self) -> "Sent":
        """The same request with one more byte in its body."""
        request = self.request
        return Sent(Received(request.path, request.headers, request.body + b" ", request.port), self.secrets)


@pytest.fixture
def sent(process, receiver) -> Sent:
    endpoint = process.add_endpoint(receiver.url)
    process.tell(a_change())
    [request] = receiver.wait_for(1)
    return Sent(request, (endpoint.secret,))


@pytest.fixture
def sent_during_rotation(process, receiver) -> Sent:
    endpoint = process.add_endpoint(receiver.url)
    rotation = RotateSecret(request_id="", on_behalf_of="shop", endpoint_id=endpoint.id, overlap_seconds=60)
    new = process.bus.request(rotation)
    process.tell(a_change())
    [request] = receiver.wait_for(1)
    return Sent(request, (new.secret, endpoint.secret))


@pytest.fixture
def sent_with_key_pair(process, receiver) -> Sent:
    endpoint = process.add_endpoint(receiver.url, signature="v1a")
    process.tell(a_change())
    [request] = receiver.wait_for(1)
    return Sent(request, (endpoint.public_key,))


@pytest.fixture
def node():
    """Run a module of Node where the libraries are, with a request as its input; returns its exit code and its output."""
    if not (RECEIVERS / "node_modules").exists() or shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)

    def run(program: str, sent: Sent, secret: str = "", **environ: str) -> tuple[int, str]:
        request = {"body": sent.request.body.decode(), "headers": sent.request.headers, "secret": secret}
        done = subprocess.run(
            ["node", "--input-type=module", "-e", program],
            cwd=RECEIVERS,
            env={**os.environ, **environ},
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.strip() or done.stderr

    return run


def shown(language: str, heading: str = "## Verifying") -> str:
    """The block of this language below a heading of the page."""
    section = PAGE.partition(f"{heading}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


# --- libraries ---


@pytest.mark.parametrize("library", FROM_PYPI.values(), ids=FROM_PYPI)
def test_libraries_from_pypi_verify_a_delivery(library, sent):
    library.Webhook(sent.secrets[0]).verify(sent.request.body, sent.request.headers)
    for secret, request in ((OTHER, sent.request), (sent.secrets[0], sent.changed().request)):
        with pytest.raises(library.WebhookVerificationError):
            library.Webhook(secret).verify(request.body, request.headers)


@pytest.mark.parametrize("library", FROM_PYPI.values(), ids=FROM_PYPI)
def test_libraries_from_pypi_verify_with_either_secret_during_rotation(library, sent_during_rotation):
    request = sent_during_rotation.request
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    for secret in sent_during_rotation.secrets:
        library.Webhook(secret).verify(request.body, request.headers)


@pytest.mark.extended
@pytest.mark.parametrize("library", FROM_NPM)
def test_libraries_from_npm_verify_a_delivery(library, sent, node):
    program = NODE.format(library=library)
    assert node(program, sent, sent.secrets[0]) == (0, "order.succeeded")
    for secret, request in ((OTHER, sent), (sent.secrets[0], sent.changed())):
        code, error = node(program, request, secret)
        assert (code, "WebhookVerificationError" in error) == (1, True), error


@pytest.mark.extended
@pytest.mark.parametrize("library", FROM_NPM)
def test_libraries_from_npm_verify_with_either_secret_during_rotation(library, sent_during_rotation, node):
    for secret in sent_during_rotation.secrets:
        assert node(NODE.format(library=library), sent_during_rotation, secret) == (0, "order.succeeded")


# --- what the page shows ---


@pytest.fixture
def in_python(tmp_path, monkeypatch):
    """The function that the page shows, with a secret."""
    (tmp_path / "shown.py").write_text(shown("python"))
    specification = importlib.util.spec_from_file_location("shown", tmp_path / "shown.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def handle(secret, request):
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
        return module.handle(request.body, request.headers)

    return handle


def test_the_verifier_in_python_verifies(in_python, sent_during_rotation):
    for secret in sent_during_rotation.secrets:
        assert in_python(secret, sent_during_rotation.request)["type"] == "order.succeeded"
    for secret, request in (
        (OTHER, sent_during_rotation),
        (sent_during_rotation.secrets[0], sent_during_rotation.changed()),
    ):
        with pytest.raises(standardwebhooks.webhooks.WebhookVerificationError):
            in_python(secret, request.request)


@pytest.mark.extended
def test_the_verifier_in_node_verifies(node, sent_during_rotation, tmp_path):
    (tmp_path / "shown.mjs").write_text(shown("javascript"))
    (tmp_path / "node_modules").symlink_to(RECEIVERS / "node_modules")
    program = HANDLE.format(module=tmp_path / "shown.mjs")
    for secret in sent_during_rotation.secrets:
        assert node(program, sent_during_rotation, WEBHOOK_SECRET=secret) == (0, "order.succeeded")
    assert node(program, sent_during_rotation, WEBHOOK_SECRET=OTHER)[0] == 1
    assert node(program, sent_during_rotation.changed(), WEBHOOK_SECRET=sent_during_rotation.secrets[0])[0] == 1


@pytest.mark.extended
def test_the_verifier_of_key_pairs_verifies(node, sent_with_key_pair, tmp_path):
    """By Node's own cryptography: none of the libraries knows v1a."""
    (tmp_path / "shown.mjs").write_text(shown("javascript", "### With a key pair"))
    program = HANDLE.format(module=tmp_path / "shown.mjs")
    [key] = sent_with_key_pair.secrets
    assert key.startswith("whpk_")
    assert node(program, sent_with_key_pair, WEBHOOK_PUBLIC_KEY=key) == (0, "order.succeeded")
    assert node(program, sent_with_key_pair.changed(), WEBHOOK_PUBLIC_KEY=key)[0] == 1
    other = f"whpk_{base64.b64encode(bytes(31) + b'1').decode()}"
    assert node(program, sent_with_key_pair, WEBHOOK_PUBLIC_KEY=other)[0] == 1


def in_shell(sent: Sent, secret: str, folder: Path) -> tuple[int, str]:
    (folder / "body.json").write_bytes(sent.request.body)
    headers = {
        name.replace("-", "_").upper(): value for name, value in sent.request.headers.items() if "webhook" in name
    }
    done = subprocess.run(
        ["sh", "-c", shown("sh")],
        cwd=folder,
        env={**os.environ, **headers, "WEBHOOK_SECRET": secret},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_verifier_in_shell_verifies(sent_during_rotation, tmp_path):
    for secret in sent_during_rotation.secrets:
        assert in_shell(sent_during_rotation, secret, tmp_path) == (0, "verified\n")
    assert in_shell(sent_during_rotation, OTHER, tmp_path) == (1, "refused\n")
    assert in_shell(sent_during_rotation.changed(), sent_during_rotation.secrets[0], tmp_path) == (1, "refused\n")
