"""docs/notebook.md as it says: its cells run on a workspace, and a notebook shows what they end in."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_workspace import with_nodes

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"
SHOWN = ("<svg", "<svg", "<table", "weights nonzero")
"""What the cells show."""


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A folder with a workspace where the page says."""
    with_nodes(Path(shutil.copytree(finished, tmp_path / "runs" / "quickstart")))
    return tmp_path


def cells() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_cells_end_in_something_to_look_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    for cell, words in zip(cells(), SHOWN, strict=True):
        *before, last = ast.parse(cell).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        assert words in value._repr_html_()
        assert len(repr(value)) <= 300


@pytest.mark.slow
def test_a_notebook_runs_headless(place: Path) -> None:
    for package in ("nbconvert", "ipykernel"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    parts = [
        {"cell_type": "code", "id": f"cell{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": cell}
        for n, cell in enumerate(cells())
    ]
    notebook = place / "circuits.ipynb"
    notebook.write_text(json.dumps({"cells": parts, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", str(notebook)]
    subprocess.run(command, check=True, cwd=place)
    shown = (place / "circuits.html").read_text(encoding="utf-8")
    assert shown.count('<div class="thinwire"') == len(SHOWN)
