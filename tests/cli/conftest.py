"""The command line run in this process, and one workspace with a finished artefact of every kind."""

import shutil
from pathlib import Path

import pytest
from cli_workspace import DATA, PRUNE, TASK, TRAIN, VERIFY, Ran, Thinwire

from thinwire.cli.main import run
from thinwire.verify.config import VerifyConfig


@pytest.fixture
def thinwire(capfd: pytest.CaptureFixture[str]) -> Thinwire:
    """Call the command line with these words; capture what it writes."""

    def call(*words: object) -> Ran:
        capfd.readouterr()
        code = run([str(word) for word in words])
        return Ran(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with tokens, model, circuit, verdict and page; not to be written in."""
    work = tmp_path_factory.mktemp("cli") / "runs" / "quickstart"
    circuit = work / "circuits" / TASK
    assert run(["data", "--out", str(work / "tokens"), *DATA]) == 0
    assert run(["train", str(work / "tokens"), "--out", str(work / "model"), *TRAIN]) == 0
    assert run(["prune", str(work / "model"), "--task", TASK, *PRUNE]) == 0
    assert run(["verify", str(circuit), *VERIFY]) == 0
    assert run(["view", str(circuit)]) == 0
    return work


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts without a config of their own, as `view` makes them, are of few pairs."""
    few = VerifyConfig(pairs=8, random_circuits=1)
    monkeypatch.setattr("thinwire.stages.verify.VerifyConfig", lambda: few)


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace to do as one likes with."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that a module's own fixture `made` makes, as the current one."""
    copy = Path(shutil.copytree(made, tmp_path / "home"))
    monkeypatch.chdir(copy)
    return copy
