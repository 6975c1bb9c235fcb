"""Look for known weaknesses: python -m tests.security.audit

In the code with bandit. In the locked packages with pip-audit, which asks a database on the internet; where that cannot
be reached, pip-audit alone would pass with every package skipped. Here that counts as not audited, and fails, unless
--or-say-so: then it is said, and the packages are held against FLOORS, the advisories known when this was written.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
CODE = ("app", "gunicorn.conf.py")
# The first version without the weakness, and what that was.
FLOORS = {
    "certifi": ("2024.7.4", "CVE-2024-39689: a root that is not trusted any more"),
    "cryptography": ("44.0.1", "CVE-2024-12797: OpenSSL's raw public keys"),
    "flask": ("3.1.1", "CVE-2025-47278: the order of fallback keys"),
    "gunicorn": ("23.0.0", "CVE-2024-6827: request smuggling by Transfer-Encoding"),
    "h11": ("0.16.0", "CVE-2025-43859: lenient chunks"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a way out of the sandbox"),
    "pyjwt": ("2.10.1", "CVE-2024-53861: a part of the issuer was enough"),
    "pymongo": ("4.6.3", "CVE-2024-5629: reading out of bounds"),
    "werkzeug": ("3.0.6", "CVE-2024-49767: forms without bounds"),
}


def bandit() -> str:
    """What bandit finds in the code, empty for nothing."""
    command = [sys.executable, "-m", "bandit", "-q", "-r", *CODE, "-f", "custom"]
    done = subprocess.run(
        [*command, "--msg-template", "{relpath}:{line} {test_id} {msg}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode else ""


def pip_audit() -> tuple[list[str], list[str]]:
    """The weaknesses that pip-audit knows of in what is locked, and the packages it could not look up."""
    options = ["--require-hashes", "--disable-pip", "-r", str(LOCK), "-f", "json", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        return [], sorted(locked())
    known = json.loads(done.stdout)["dependencies"]
    weak = [f"{one['name']} {one['version']}: {flaw['id']}" for one in known for flaw in one.get("vulns", ())]
    return weak, [one["name"] for one in known if "skip_reason" in one]


def locked() -> dict[str, Version]:
    """Every package that the image has, and its version."""
    return {
        name: Version(version) for name, version in re.findall(r"(?m)^([a-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text())
    }


def below_floors() -> list[str]:
    """Locked packages with a weakness that was known when this was written."""
    versions = locked()
    return [
        f"{name} {versions[name]} is below {floor}: {what}"
        for name, (floor, what) in FLOORS.items()
        if name in versions and versions[name] < Version(floor)
    ]


def main() -> None:
    """Print the findings; exit code 1 if there are any, or if the audit was not possible."""
    found = bandit()
    weak, skipped = pip_audit()
    weak += below_floors()
    print(found, *weak, sep="\n")
    if skipped:
        print(f"NOT AUDITED: {len(skipped)} of {len(locked())} packages could not be looked up")
    else:
        print(f"audited: {len(locked())} packages")
    sys.exit(bool(found or weak or (skipped and "--or-say-so" not in sys.argv)))


if __name__ == "__main__":
    main()
