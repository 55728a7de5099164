"""A finished bridge with the two models that it joins, found by the content ids that the bridge names them by."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thinwire import artifact, shipped
from thinwire.artifact import Artifact
from thinwire.artifact.meta import META
from thinwire.bridge.hf.folder import contents, is_hf_folder
from thinwire.bridge.reads import Decoder
from thinwire.bridge.store import StoredBridge, load_bridge
from thinwire.circuit import Circuit
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.stages.ends import Dense
from thinwire.stages.workspace import Opened

Role = Literal["dense", "sparse"]


@one_line
@dataclass(frozen=True)
class Bridged:
    """A bridge and both of its models, opened; the sparse one on sparse kernels."""

    stored: StoredBridge
    dense: Dense
    sparse: Opened

    @classmethod
    def open(cls, folder: Path | str, dense: Path | None = None, sparse: Path | None = None) -> "Bridged":
        """Open the bridge in a folder, and its models: those given, else those found by `find_parent`.

        Raises UserError where a model is not found, or is not the bridge's.
        """
        stored = load_bridge(folder)
        own = Opened.open(find_parent(stored.artifact, "sparse", sparse))
        found = cls(stored, Dense.open(find_parent(stored.artifact, "dense", dense), own.tokenizer), own)
        found._require("dense", found.dense.artifact)
        found._require("sparse", found.sparse.artifact)
        return found

    @property
    def stage(self) -> str:
        """The last stage of the bridge's fit: ridge, maps, joint or scratch."""
        return self.stored.summary.stage

    def decoder(self, dose: str = "sparse/dense") -> Decoder:
        """What sparse reads are worth in dense reads; `dose` as in `Decoder`."""
        return Decoder(self.stored.bridge, self.sparse.model, self.dense.target, dose)

    def check_circuit(self, circuit: Circuit) -> None:
        """Raise UserError unless the circuit was cut from the sparse model of this bridge."""
        made, ours = circuit.artifact, self.sparse.artifact
        assert made is not None
        if made.meta.parents.get("model") != ours.id:
            remedy = shlex.join(["thinwire", "prune", str(ours.path)])
            raise UserError(
                f"{made.path} is a circuit of another model than {ours.path}, which {self.stored.artifact.path} "
                f"joins to the dense model; prune it anew with `{remedy} --task {circuit.task} --tokens TOKENS`."
            )

    def _require(self, role: Role, found: Artifact) -> None:
        if self.stored.artifact.meta.parents.get(role) != found.id:
            raise UserError(
                f"{found.path} is not the {role} model that {self.stored.artifact.path} was fitted to; "
                f"give that model for --{role}."
            )


def find_parent(bridge: Artifact, role: Role, given: Path | None = None) -> Path:
    """The folder of a bridge's dense or sparse model: the one given, or the first of `neighbours` with the right id.

    Raises UserError where there is none.
    """
    if given is not None:
        return given
    wanted = bridge.meta.parents.get(role)
    for folder in neighbours(bridge.path):
        if _id_in(folder) == wanted:
            return folder
    raise UserError(
        f"The {role} model of {bridge.path} is none of the shipped models, and not in a folder near the bridge; "
        f"give its folder with --{role}."
    )


def neighbours(bridge: Path) -> Iterator[Path]:
    """Folders where the models of a bridge in `OUT/STAGE` may be.

    `OUT/runs/joint` and `OUT/runs/scratch`; the shipped models; then models, and workspaces with a `model`, in the
    folder that OUT is in, in the folder around that, and in `runs` of the current folder.
    """
    out = bridge.absolute().parent
    yield from (out / "runs" / stage for stage in ("joint", "scratch"))
    yield from (shipped.root() / name for name in shipped.names())
    seen: set[Path] = set()
    for around in (out.parent, out.parent.parent, Path("runs").absolute()):
        for folder in _folders_in(around):
            for place in (folder, folder / "model"):
                if place not in seen:
                    seen.add(place)
                    yield place


def _folders_in(around: Path) -> list[Path]:
    """The folders in a folder, sorted; none where it cannot be read."""
    try:
        return sorted(path for path in around.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _id_in(folder: Path) -> str | None:
    """The content id that the `meta.json` of a model folder states, whose files are not checked.

    That of a Hugging Face model is computed from its files.
    """
    try:
        if is_hf_folder(folder):
            return contents(folder).id
        if not artifact.is_finished(folder) or artifact.read_head(folder / META).format != "model":
            return None
        return Artifact(folder, artifact.read_meta(folder / META)).id
    except (UserError, OSError):
        return None
