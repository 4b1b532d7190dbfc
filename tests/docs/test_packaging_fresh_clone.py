"""The repository's promises to somebody who has just cloned it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):[^=]*?## ", MAKEFILE, flags=re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Make as typed in a shell, also where these tests themselves run under make."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=shell | {"LC_ALL": "C"},
    )


def _dry_run(*arguments: str) -> str:
    done = _make("--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_lists_its_targets() -> None:
    told = _make().stdout

    assert [line.split("\t")[0] for line in told.splitlines()] == [f"make {target}" for target in TARGETS]
    assert {"demo", "test", "lint"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_does_something(target: str) -> None:
    assert _dry_run(target).strip()


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_a_fresh_clone_installs_first(target: str, tmp_path: Path) -> None:
    commands = _dry_run(target, f"BIN={tmp_path}/bin", f"READY={tmp_path}/ready")

    assert (
        commands.index("-m venv")
        < commands.index("uv pip install")
        < commands.index(f"{tmp_path}/bin/python -m ", commands.index("touch "))
    )


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    """The stand-in runs the Makefile's own check as if by Python 3.9."""
    old = tmp_path / "python3.9"
    old.write_text(
        "#!/usr/bin/env python3\nimport sys\nsys.version_info = (3, 9, 0)\nexec(sys.argv[2])\n", "utf-8"
    )
    old.chmod(0o755)
    done = _make("lint", f"PYTHON={old}", f"READY={tmp_path}/ready")

    assert done.returncode == 2
    assert "Python 3.11 or newer is needed, not 3.9" in done.stderr


def test_ci_runs_what_a_contributor_runs() -> None:
    script = ROOT / ".ci/run"
    lines = script.read_text().splitlines()

    assert os.access(script, os.X_OK)
    assert lines[-3:-1] == ["make lint", "make test"]
    assert lines[-1] == "make bench SIZE=small OPTIONS=--allow-missing-peers"


def test_no_lock_of_another_installer_is_kept() -> None:
    assert not (ROOT / "uv.lock").exists()
