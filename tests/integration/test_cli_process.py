"""The command line as a process: exit codes, signals, closed pipes, missing packages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from svr_retrievers import cli


def run(*words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "svr_retrievers.cli"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SVR_")} | environment
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, env=env, timeout=120, check=False
    )


def test_version_and_help():
    shown = run("version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("svr-retrievers ")
    helped = run("--help")
    assert helped.returncode == 0
    for command in ("demo", "doctor", "search", "explain", "map", "collections", "config", "version"):
        assert command in helped.stdout


def test_a_mistake_is_one_line_and_exit_code_two():
    done = run("search", "--bogus")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("svr: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "extra"), [("cyclopts", "cli"), ("rich", "cli"), ("psycopg", "postgres")]
)
def test_a_missing_package_names_the_command(package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from svr_retrievers.cli import main; sys.exit(main())"
    )
    done = run("demo", "--url", "postgresql://127.0.0.1:1/nowhere", code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert f'pip install "svr-retrievers[{extra}]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_local_model_names_the_command(tmp_path):
    (tmp_path / "a.txt").write_text("words enough to make a passage")
    code = (
        "import sys; sys.modules['wordllama'] = None; from svr_retrievers.cli import main; sys.exit(main())"
    )
    done = run("demo", "--path", str(tmp_path), "--data-path", str(tmp_path / "pg"), code=code)
    assert done.returncode == 2
    assert 'pip install "svr-retrievers[local]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        command = [sys.executable, "-m", "svr_retrievers.cli", "config", "show"]
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert done.stderr == ""
    assert done.returncode != 0


def test_an_interrupt_is_quiet(monkeypatch, capsys):
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("svr_retrievers.cli.app.run", interrupted)
    assert cli.main(["version"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_unexpected_error_names_debug(monkeypatch, capsys):
    def broken(_: list[str]) -> int:
        raise KeyError("surprise")

    monkeypatch.setattr("svr_retrievers.cli.app.run", broken)
    assert cli.main(["version"]) == 2
    assert "unexpected KeyError: 'surprise'. Run again with --debug" in capsys.readouterr().err
    with pytest.raises(KeyError):
        cli.main(["version", "--debug"])


@pytest.mark.postgres
@pytest.mark.slow
def test_path_starts_an_embedded_server_of_its_own(tmp_path):
    done = run("collections", "list", "--path", str(tmp_path / "data"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "No collections yet.\n", "")
    healthy = run("doctor", SVR_PATH=str(tmp_path / "data"))
    assert healthy.returncode == 0
    assert "PostgreSQL" in healthy.stdout


def test_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("collections", "list", "--path", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "is a file" in done.stderr
    assert done.stderr.count("\n") == 1
