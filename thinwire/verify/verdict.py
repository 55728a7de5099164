"""The verdict on a circuit: every registered check, on pairs that pruning never used."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import with_config
from torch import Tensor

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit, circuit_task
from thinwire.config import STRICT, read_record
from thinwire.data.tokenizer import Tokenizer
from thinwire.display import Shown, named, plural
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.tasks import PairUse, Task
from thinwire.verify.checks import Check, all_checks
from thinwire.verify.config import VerifyConfig
from thinwire.verify.inputs import CheckInput, ablation_of
from thinwire.verify.measurement import Measurement

RESERVED = (
    *("bytes", "format", "heldout_pairs", "id", "kind", "out", "passed_over", "passed_over_why", "reused", "rows"),
    *("seconds", "seed", "thinwire", "train_pairs", "verdict", "weakest", "word"),
)
"""Names that the command line gives to values of its own beside the flat values of a verdict."""


@with_config(STRICT)
@dataclass(frozen=True)
class Verdict(Shown):
    """What the checks measured on one circuit."""

    task: str
    nodes: int
    edges: int
    target_loss: float | None
    """Task loss that pruning had to reach, nats; None for circuits that were not pruned to one."""
    measurements: tuple[Measurement, ...]
    """Measurements of the same check stand side by side."""
    pairs: tuple[PairUse, ...] = ()
    """Pairs of each split that were used and passed over; empty in older files."""

    def __post_init__(self) -> None:
        names = [measurement.name for measurement in self.measurements]
        if not names or len(set(names)) != len(names):
            raise ValueError("a verdict needs at least one measurement, and no two of the same name")
        shown = [measurement.headline for measurement in self.measurements if measurement.headline]
        columns, keys = [headline.column for headline in shown], [headline.key for headline in shown]
        if len(set(columns)) != len(columns) or len(set(keys)) != len(keys):
            raise ValueError("no two headlines of a verdict have the same column or key")
        taken = sorted(set(keys) & {*RESERVED, *(field.name for field in fields(self))})
        if taken:
            raise ValueError(f"the key of a headline is none of the verdict's own values: {', '.join(taken)}")

    def __repr__(self) -> str:
        found = named([f"{one.name} {one.number}" for one in self.measurements])
        return f"Verdict({self.task!r}, {self.sizes}: {found})"

    @property
    def sizes(self) -> str:
        """The circuit's numbers of nodes and edges in words."""
        return f"{plural(self.nodes, 'node')}, {plural(self.edges, 'edge')}"

    @property
    def control(self) -> str:
        """The kind of control that the circuit does, such as `nonsense`; empty where it does a task."""
        return self.task.partition(".")[2]

    def __getitem__(self, name: str) -> Measurement:
        """The measurement called `name`, such as `sufficiency.loss`. Raises KeyError."""
        return {measurement.name: measurement for measurement in self.measurements}[name]

    @property
    def headlines(self) -> dict[str, Measurement]:
        """The measurements for tables of several circuits, by the title of their column."""
        return {found.headline.column: found for found in self.measurements if found.headline}

    def save(self, folder: Path | str, config: VerifyConfig, parents: Mapping[str, Artifact]) -> None:
        """Write the verdict as an artefact folder; its parents are `circuit`, and `bridge` and `tokens` where used."""
        with artifact.replacing(Path(folder), "verdict") as scratch:
            artifact.write_text(scratch / "verdict.json", json.dumps(asdict(self), indent=1))
            artifact.finish(scratch, "verdict", config, parents, ["verdict.json"], config.seed)

    @classmethod
    def load(cls, folder: Path | str) -> "Verdict":
        """The verdict in an artefact folder. Raises UserError when it is not a whole one."""
        opened = artifact.open_artifact(Path(folder), "verdict")
        refusal = f"{folder} does not hold a readable verdict; verify again."
        return read_record(cls, opened.file("verdict.json"), refusal)


def finished_verdict(
    circuit: Circuit, folder: Path, config: VerifyConfig | None = None, further: Mapping[str, Artifact] | None = None
) -> Verdict | None:
    """The verdict in a folder, if it is on exactly this circuit; None where there is none that can be read.

    Given a config, it must also be made with this config and by the checks that are registered now; given further
    parents, such as a bridge, also with these.
    """
    parents = verdict_parents(circuit, further or {})
    return artifact.finished(folder, Verdict.load, lambda found: differences(parents, folder, config, found))


def verdict_parents(circuit: Circuit, further: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The parents of a verdict on a stored circuit, by role: `circuit`, and the further ones."""
    assert circuit.artifact is not None
    return {"circuit": circuit.artifact, **further}


def differences(
    parents: Mapping[str, Artifact], folder: Path, config: VerifyConfig | None, found: Verdict
) -> list[str]:
    """Names of what a finished verdict in a folder has another of: options, `set of checks`, and roles of parents.

    Without a config it may have any options and checks. It may have parents, and thorough checks, that are not asked
    for.
    """
    opened = artifact.open_artifact(folder, "verdict")
    different = artifact.differences(opened, None, parents)
    if config is None:
        return different
    theirs = opened.config(VerifyConfig)
    more = ("thorough",) if theirs.thorough else ()
    tokens, bridged = (role in opened.meta.parents for role in ("tokens", "bridge"))
    registered = {check.name for check in all_checks(theirs.thorough, tokens)}
    measured = {one.check for one in found.measurements}
    same_checks = measured >= registered if bridged else measured == registered
    options = artifact.differences(opened, config, {}, more)
    return options + different + ["set of checks"] * (not same_checks)


@own_modes()
def verify(
    model: Transformer,
    circuit: Circuit,
    tokenizer: Tokenizer,
    config: VerifyConfig | None = None,
    report: Report = silent,
    own: Task | None = None,
    further: Sequence[Check] = (),
    pretraining: Tensor | None = None,
) -> Verdict:
    """Run every registered check, and `further` ones, such as those through a bridge.

    `own` is the circuit's task where it is not a registered one. `pretraining` are held-out pretraining sequences,
    int64 [rows, pos], with the end of text first; without them the checks that need them are left out.
    Raises UserError when circuit, model and task do not belong together.
    """
    config = config or VerifyConfig()
    circuit.check_model(model)
    task, context = circuit_task(circuit, own), model.config.context
    heldout, fit = (task.pairs(config.pairs, split, config.seed, tokenizer, context) for split in ("heldout", "train"))
    inputs = CheckInput(model, circuit, heldout, fit, config, ablation_of(circuit), pretraining, task, tokenizer)
    checks, measurements = [*all_checks(config.thorough, pretraining is not None), *further], []
    for done, check in enumerate(checks, 1):
        found = list(check.run(inputs))
        assert found, f"check {check.name} measures nothing"
        assert {one.check for one in found} == {check.name}, f"check {check.name} names another check"
        measurements += found
        report(done, len(checks), f"{found[0].title}: {found[0].quantity} {found[0].number}")
    uses = tuple(batch.use for batch in (heldout, fit) if batch.use is not None)
    sizes = len(circuit.nodes), len(circuit.edges(model))
    return Verdict(circuit.task, *sizes, inputs.target_loss, tuple(measurements), uses)
