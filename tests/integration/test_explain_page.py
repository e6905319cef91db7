"""docs/explain.md: its Python is run, its text is what that prints, its commands exist."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re

from click.testing import CliRunner

from fastroute.cli import main

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "explain.md").read_text()


def test_examples_of_the_page_run_and_print_what_it_shows():
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, object] = {}
    printed = ""
    for kind, code in blocks:
        if kind == "text":
            assert printed == code
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, namespace)
        printed = out.getvalue()
    assert namespace["found"].needless == 0
    assert namespace["found"].method == "exact"


def test_commands_of_the_page_are_accepted(tmp_path):
    file, key = tmp_path / "fastroute.toml", "user-17"
    file.write_text(
        '[listeners.web]\nbind = "127.0.0.1:8080"\npool = "app"\n[[pools.app.servers]]\naddress = "10.0.0.1:80"\n'
    )
    (tmp_path / "tomorrow.toml").write_text(file.read_text())
    commands = re.findall(r"^    fastroute (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        arguments = [str(tmp_path / word) if word.endswith(".toml") else word for word in command.split()]
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == 0, found.output
        assert key in found.stdout or "explain" not in command
