"""What the tests of the command line share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from art_advtransform import cli

EVALUATE = ["evaluate", "--preset", "smoke", "--images", "6", "--draws", "4"]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """When and as which inode every file was written."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


def run(*arguments: str) -> str:
    """The output of a command that ends well."""
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def table(output: str) -> list[str]:
    """The lines of the table itself, without its title."""
    return [line for line in output.splitlines() if line[:1] in tuple("┏┃┡│├└")]


def fails(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that ends with 2, as the shell would run it; nothing may be written."""
    before = files(Path.cwd())
    monkeypatch.setattr(sys, "argv", ["art-advtransform", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    assert files(Path.cwd()) == before
    assert not Path("runs").exists()
    return errors.strip()
