"""Shipped models: how their names are found, where they lie, and that every way of installing brings them along."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tiny import tiny_run

import thinwire
from thinwire import shipped
from thinwire.data import Tokenizer, Tokens
from thinwire.errors import UserError
from thinwire.stages import Opened, Workspace
from thinwire.train import read_result, train
from thinwire.train.inputs import Inputs

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two shipped models, of which only the names matter, and things that are none."""
    for name in ("b-model", "a-model"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "meta.json").touch()
    (tmp_path / "models/unfinished").mkdir()
    (tmp_path / "models/README.md").touch()
    return tmp_path / "models"


def test_names_are_those_of_finished_folders(place: Path, tmp_path: Path) -> None:
    assert shipped.names(place) == ("a-model", "b-model")
    assert shipped.names(tmp_path / "nowhere") == ()


def test_a_folder_comes_before_a_name(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find("a-model", place) == place / "a-model"
    assert shipped.name_of("a-model", place) == "a-model"
    (tmp_path / "a-model").mkdir()
    assert shipped.find("a-model", place) == Path("a-model")
    assert shipped.name_of("a-model", place) is None
    for path in ("c-model", "unfinished", "README.md", "x/a-model", "../a-model", ".", "..", "", "/a-model"):
        assert shipped.find(path, place) == Path(path)
        assert shipped.name_of(path, place) is None


def test_a_shipped_folder_is_known_by_any_path_to_it(place: Path, tmp_path: Path, monkeypatch) -> None:
    assert shipped.name_of(place / "b-model", place) == "b-model"
    monkeypatch.chdir(place / "b-model")
    assert shipped.name_of(Path("."), place) == "b-model"
    assert shipped.name_of(Path("../a-model"), place) == "a-model"
    assert shipped.name_of(place / "unfinished", place) is None
    assert shipped.name_of(place, place) is None


@pytest.fixture
def toy(tiny_tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models that holds `toy`, and an empty current folder."""
    monkeypatch.setattr(shipped, "root", lambda: tmp_path / "models")
    train(tiny_run(steps=2), tiny_tokens, tmp_path / "models/toy")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "models/toy"


def test_a_name_opens_wherever_a_folder_does(toy: Path, tiny_tokens: Tokens) -> None:
    weights = thinwire.load(toy).state_dict()
    assert all(value.equal(weights[name]) for name, value in thinwire.load("toy").state_dict().items())
    assert Opened.open("toy").artifact == Opened.open(toy).artifact
    assert Tokenizer.load("toy").id == Tokenizer.load(toy).id == tiny_tokens.tokenizer.id
    assert read_result("toy").val_loss == read_result(toy).val_loss
    assert Inputs.open(tiny_run(), tiny_tokens, teacher="toy").ids["teacher"] == Opened.open("toy").artifact.id
    with pytest.raises(UserError, match=r"^toys is not a folder; give the path .* name of a shipped one \(toy\)\.$"):
        thinwire.load("toys")


def test_workspace_of_a_shipped_model_is_in_the_current_folder(toy: Path) -> None:
    for model in (Path("toy"), toy):
        assert Workspace.of_model(model) == Workspace(Path("runs/toy"))
    opened = Opened.open("toy")
    work = Workspace.of_model(Path("toy"))
    work.adopt(opened.artifact)
    assert Opened.open(work.model).artifact.id == opened.artifact.id
    assert Workspace.of_model(work.model) == Workspace(Path("runs/toy").absolute())
    stamp = (work.model / "meta.json").stat().st_mtime_ns
    work.adopt(opened.artifact)
    assert (work.model / "meta.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"no tokens of toy in runs/toy/tokens; make them with `thinwire data"):
        work.open_tokens(None, Path("toy"))


def test_another_model_in_the_workspace_is_not_replaced(toy: Path, tiny_tokens: Tokens) -> None:
    work = Workspace.of_model(Path("toy"))
    train(tiny_run(steps=1), tiny_tokens, work.model)
    before = Opened.open(work.model).artifact.id
    with pytest.raises(UserError, match=r"runs/toy/model holds another model than .*; choose another --out"):
        work.adopt(Opened.open("toy").artifact)
    assert Opened.open(work.model).artifact.id == before


def test_models_that_are_not_shipped_stay_where_they_are(toy: Path, tiny_tokens: Tokens) -> None:
    train(tiny_run(steps=1), tiny_tokens, Path("mine"))
    work = Workspace.of_model(Path("mine"))
    work.adopt(Opened.open("mine").artifact)
    assert [path.name for path in Path().iterdir()] == ["mine"]


def test_models_of_this_checkout_are_whole() -> None:
    """Whatever is shipped opens, has a card, and takes a few megabytes."""
    for name in shipped.names(ROOT / "models"):
        folder = ROOT / "models" / name
        opened = Opened.open(folder)
        assert opened.tokenizer.vocab_size == opened.model.config.vocab_size
        assert (folder / "README.md").read_text("utf-8").startswith(f"# {name}\n")
        assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6


BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def test_wheel_and_source_archive_hold_the_models(place: Path, tmp_path: Path) -> None:
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("the build needs setuptools 77")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "thinwire", tree / "thinwire", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(place, tree / "models")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind), str(tmp_path)]
        subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
        opened.extractall(tmp_path / "installed")
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "thinwire").rglob("*.py")}
    assert {"thinwire/models/a-model/meta.json", "thinwire/view/static/main.js", *sources} <= held
    with tarfile.open(archive) as opened:
        assert any(name.endswith("/models/b-model/meta.json") for name in opened.getnames())
    program = "from thinwire import shipped; print(shipped.root(), *shipped.names())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path / "installed/thinwire/models"), "a-model", "b-model"]
