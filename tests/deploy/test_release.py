"""The workflow that makes a release: checked by a linter, in the right order, with least rights; its script run on real trees.

It has not run at GitHub: what the actions do there these tests cannot tell.
"""

import re
import shutil
import subprocess

import pytest
import yaml

from app import __version__
from tests.deploy.rendered import ROOT, helm_path, program

WORKFLOW = ROOT / ".github/workflows/release.yml"
TEXT = WORKFLOW.read_text()
# PyYAML reads the key `on` as true.
RELEASE = yaml.safe_load(TEXT)
JOBS = RELEASE["jobs"]
CHANGELOG = "# Changelog\n\n## 0.2.0, 2027-01-31\n\n- New.\n\n## 0.1.0, 2026-12-01\n\n- First.\n"
pytestmark = pytest.mark.extended


def lint(file):
    return subprocess.run([program("actionlint"), "-no-color", file], capture_output=True, text=True, check=False)


def step(job, name):
    [found] = [one for one in JOBS[job]["steps"] if one.get("name") == name]
    return found


# --- the workflow ---


def test_a_linter_finds_nothing_in_the_workflow():
    done = lint(WORKFLOW)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("needs: tests", "needs: test"),
        ("steps.build.outputs.digest", "steps.built.outputs.digest"),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.40"),
        ("contents: write", "content: write"),
    ],
)
def test_the_linter_finds_mistakes_that_would_show_at_a_release_only(tmp_path, right, wrong):
    assert right in TEXT
    (tmp_path / "release.yml").write_text(TEXT.replace(right, wrong, 1))
    assert lint(tmp_path / "release.yml").returncode == 1


def test_only_the_tag_of_a_version_starts_it():
    assert RELEASE[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    assert re.fullmatch(r"v[0-9]+\.[0-9]+\.[0-9]+", f"v{__version__}")


def test_nothing_is_published_before_the_tests_have_passed():
    commands = [one.get("run", "") for one in JOBS["tests"]["steps"]]
    assert commands[-1] == ".ci/run"
    assert "needs" not in JOBS["tests"]
    assert all("tests" in JOBS[job]["needs"] for job in ("image", "release"))
    assert "image" in JOBS["release"]["needs"]
    assert not any({"if", "continue-on-error"} & one.keys() for one in JOBS["tests"]["steps"])


def test_every_job_has_the_rights_that_it_needs_and_no_other():
    assert RELEASE["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "tests": {"contents": "read"},
        "image": {"contents": "read", "packages": "write"},
        "release": {"contents": "write", "packages": "write", "id-token": "write", "attestations": "write"},
    }
    checkouts = [
        one for job in JOBS.values() for one in job["steps"] if one.get("uses", "").startswith("actions/checkout")
    ]
    assert len(checkouts) == len(JOBS)
    assert all(one["with"] == {"persist-credentials": False} for one in checkouts)


def test_every_action_is_pinned_to_a_commit_and_names_its_release():
    uses = re.findall(r"uses: (.+)", TEXT)
    assert len(uses) == sum("uses" in one for job in JOBS.values() for one in job["steps"])
    assert all(re.fullmatch(r"[a-z]+/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses)


def test_no_text_from_outside_becomes_part_of_a_command():
    commands = [one["run"] for job in JOBS.values() for one in job["steps"] if "run" in one]
    assert commands
    assert not any("${{" in command for command in commands)


def test_the_image_is_for_two_platforms_and_says_what_is_in_it_and_where_it_comes_from():
    given = step("image", "Build and push")["with"]
    assert given["platforms"] == "linux/amd64,linux/arm64"
    assert (given["push"], given["sbom"], given["provenance"]) == (True, True, "mode=max")
    assert given["build-args"].startswith("REVISION=")
    assert all(platform in step("image", "Start the command on both platforms")["run"] for platform in given["platforms"].split(","))  # fmt: skip


# --- its script ---


@pytest.fixture
def notes(tmp_path):
    """Runs the script for a tag in a tree with a version and a changelog."""

    def run(tag, version, changelog=CHANGELOG):
        for name, text in (("app/__init__.py", f'"""An app."""\n\n__version__ = "{version}"\n'), ("CHANGELOG.md", changelog)):  # fmt: skip
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / ".github").mkdir(exist_ok=True)
        script = shutil.copy(ROOT / ".github/release-notes", tmp_path / ".github/release-notes")
        return subprocess.run([script, tag], capture_output=True, text=True, check=False, cwd="/")

    return run


@pytest.mark.parametrize(("version", "text"), [("0.2.0", "\n- New.\n\n"), ("0.1.0", "\n- First.\n")])
def test_the_notes_are_what_the_changelog_says_of_the_version(notes, version, text):
    done = notes(f"v{version}", version)
    assert (done.returncode, done.stdout) == (0, text)


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "complaint"),
    [
        ("v0.2.1", "0.2.0", CHANGELOG, "the tag is v0.2.1, but the version in app/__init__.py is 0.2.0"),
        ("0.2.0", "0.2.0", CHANGELOG, "the tag is 0.2.0"),
        ("v0.3.0", "0.3.0", CHANGELOG, "no dated heading for 0.3.0"),
        ("v0.2.0", "0.2.0", CHANGELOG.replace("2027-01-31", "unreleased"), "no dated heading for 0.2.0"),
    ],
)
def test_a_tag_that_is_not_ready_ends_the_release_at_once(notes, tag, version, changelog, complaint):
    done = notes(tag, version, changelog)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_the_script_reads_the_version_and_the_changelog_of_this_project(notes):
    done = notes(f"v{__version__}", __version__, re.sub(", unreleased", ", 2027-01-31", (ROOT / "CHANGELOG.md").read_text()))  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.strip().startswith("- ")
    assert (ROOT / "app/__init__.py").read_text().endswith(f'\n__version__ = "{__version__}"\n')


# --- what it builds ---


def test_the_chart_packages_under_the_version_of_the_tag(tmp_path):
    command = [helm_path(), *step("release", "Package the chart")["run"].split()[1:-1], tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert [file.name for file in tmp_path.iterdir()] == [f"orderflow-{__version__}.tgz"]
