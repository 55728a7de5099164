"""Arguments that make a tiny workspace, what calls of the command line did, here or in processes, and to files."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from thinwire import artifact
from thinwire.circuit import Circuit
from thinwire.prune import PruneConfig
from thinwire.sites import Node

TASK = "bracket_counting"
DATA = ["--idioms", "300", "--no-stdlib", "--vocab-size", "600"]
SHAPE = ["--model.d-model", "32", "--model.d-head", "8", "--model.n-layers", "1", "--model.context", "128"]
TRAIN = [*SHAPE, "--model.vocab-size", "600", "--steps", "30", "--batch-size", "4", "--density", "0.25"]
TRAIN += ["--validation-tokens", "512", "--validate-every", "10", "--checkpoint-every", "10"]
PRUNE = ["--target-loss", "5", "--steps", "5", "--trials", "1", "--train-pairs", "32", "--validation-pairs", "16"]
PRUNE += ["--heldout-pairs", "16", "--mean-tokens", "2048"]
BRIDGE = ["--ridge-tokens", "2000", "--validation-tokens", "200", "--batch-size", "4"]
BRIDGE += ["--bridge-steps", "3", "--joint-steps", "3"]
VERIFY = ["--pairs", "16", "--random-circuits", "2"]


@dataclass(frozen=True)
class Ran:
    """What one call of the command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The object on the last line of stdout, which must be strict JSON."""
        return json.loads(self.out.splitlines()[-1], parse_constant=pytest.fail)

    def refused(self, *said: str) -> None:
        """Check that this was a refusal: exit 2, nothing on stdout, and one sentence that says all of `said`."""
        assert (self.code, self.out) == (2, ""), self
        lines = [line for line in self.err.splitlines() if line.startswith("thinwire: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(f"{lines[0]}\n")
        assert lines[0].rstrip().endswith((".", "?", ")"))
        assert "Traceback" not in self.err
        for part in said:
            assert part in lines[0]


Thinwire = Callable[..., Ran]


def start(*words: object) -> subprocess.Popen:
    """The command line in a process of its own."""
    program = "from thinwire.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, preexec_fn=heed_interrupts)


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: they, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(there: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until something is there; fails when the process ends before or nothing comes for a minute."""
    for _ in range(6000):
        if there():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("nothing came")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, inode and time of change of every file: equal when nothing was written."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def with_nodes(work: Path) -> Path:
    """Put nodes into the workspace's circuit, as the few steps of its pruning leave none; returns its folder."""
    out = work / "circuits" / TASK
    model = artifact.open_artifact(work / "model", "model")
    circuit = Circuit.load(out)
    names = ("0.attn.act_in:1", "0.attn.v:1.2", "0.attn.resid_delta:3", "0.mlp.act_in:3", "0.mlp.post_act:7")
    nodes = tuple(sorted(Node.parse(name, circuit.shape) for name in names))
    replace(circuit, nodes=nodes).save(out, artifact.open_artifact(out, "circuit").config(PruneConfig), model)
    return out


def sign(folder: Path) -> None:
    """Make meta.json fit the files, as someone would who forges an artefact."""
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": artifact.sha256(folder / name)}
        for name in meta["files"]
    }
    (folder / "meta.json").write_text(json.dumps(meta))
