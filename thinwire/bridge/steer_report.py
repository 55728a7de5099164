"""The result of steering a dense model through a circuit's reads, as it is written to a file."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, with_config

from thinwire.bridge.curves import AtPoint, Control, Curve, Part, Step
from thinwire.bridge.steer_config import NODES, Choice, Dose
from thinwire.config import STRICT, read_record
from thinwire.display import one_line


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class SteerReport:
    """Steering of a dense model on pairs of a task that no choice was made on."""

    task: str
    bridge: str
    """Content id, as the following three."""
    dense: str
    sparse: str
    circuit: str
    stage: str
    """The last stage of the bridge's fit: ridge, maps, joint or scratch."""
    split: str
    """Split of the pairs that are steered."""
    n: int
    """Pairs; each side has so many prompts."""
    seed: int
    """Of the pairs, the draws and the intervals."""
    draws: int
    """Draws of every control."""
    choice: Choice
    """Where the reads come from, as in `SteerConfig.reads`; they are chosen on pairs of the split `train`."""
    reads: list[str]
    """Points and channels of the sparse model, such as `h_2:17`."""
    answers: tuple[str, str]
    """What the two sides are steered towards, as text; empty where it differs between pairs."""
    curves: list[Curve]
    """Of every dose and part; the first is of all reads and has every control."""
    points: list[AtPoint]

    @property
    def reference(self) -> Step:
        """All reads at strength 1, or else the largest that was measured, with every control."""
        steps = self.curves[0].steps
        return next((step for step in steps if step.strength == 1), steps[-1])

    @property
    def random_high(self) -> float:
        """The 90th percentile of norm-matched random nodes' ratios there, of the side where it is larger."""
        return control_of(self.reference, NODES).high

    def curve(self, dose: Dose, part: Part) -> Curve | None:
        """The curve of a dose and a part; None where the part has no reads of its own."""
        return next((one for one in self.curves if (one.dose, one.part) == (dose, part)), None)

    def to_json(self) -> str:
        """The report as indented JSON."""
        return TypeAdapter(SteerReport).dump_json(self, indent=1).decode()

    @classmethod
    def load(cls, path: Path) -> "SteerReport":
        """The report in a JSON file. Raises UserError for anything else."""
        return read_record(cls, path, f"{path} does not hold the result of steering; run thinwire steer again.")


def control_of(step: Step, kind: str) -> Control:
    """The control of a kind at a step that has it."""
    return next(control for control in step.controls if control.kind == kind)
