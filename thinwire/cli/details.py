"""What thinwire info says of an artefact of each format."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinwire.bridge.agreement import Agreement


def tokens_details(folder: Path) -> dict[str, object]:
    """Tokens and documents of each part and split, and what was left out of them."""
    from thinwire.data import Tokens

    tokens = Tokens.open(folder)
    rows = {f"{row.part} {row.split} tokens": row.tokens for row in tokens.stats.parts}
    rows |= {f"{row.part} {row.split} documents": row.documents for row in tokens.stats.parts}
    rows |= {f"left out: {reason}": count for reason, count in tokens.stats.skipped.items()}
    return {"vocab_size": tokens.tokenizer.vocab_size, "tokenizer": tokens.tokenizer.id, **rows}


def model_details(folder: Path) -> dict[str, object]:
    """Losses, and the nonzeros of every sparse parameter."""
    from thinwire.model.counts import WeightCounts
    from thinwire.model.weights import load, sparse_parameters
    from thinwire.train.result import read_result

    model = load(folder)
    result = {name: value for name, value in asdict(read_result(folder)).items() if name not in ("out", "val_losses")}
    shape = model.config
    counts = WeightCounts.of(model)
    sizes: dict[str, object] = {
        "weights": str(counts),
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "d_mlp": shape.d_mlp,
    }
    nonzeros = {f"nonzeros {name}": int(value.count_nonzero()) for name, value in sparse_parameters(model)}
    return sizes | result | asdict(counts) | nonzeros


def circuit_details(folder: Path) -> dict[str, object]:
    """What the verdict on it says, where there is one, what pruning reported, and how the circuit runs.

    `kept_edges` is there where it drops some between its nodes.
    """
    from thinwire.circuit import Circuit
    from thinwire.cli.prune import summary
    from thinwire.cli.verdicts import in_brief, share_of, verdict_beside

    circuit = Circuit.load(folder)
    reported = {name: value for name, value in summary(circuit, folder).items() if name != "out"}
    listed = {} if circuit.kept_edges is None else {"kept_edges": len(circuit.kept_edges)}
    verdict = verdict_beside(circuit)
    share = None if verdict is None else share_of(verdict)
    judged = ({} if verdict is None else in_brief(verdict)) | ({} if share is None else {"share": share.value})
    parts = {"frozen_norms": circuit.frozen_norms, "removed_tokens": len(circuit.removed_tokens)}
    return judged | reported | listed | parts | {"task_source": circuit.task_source or None}


def verdict_details(folder: Path) -> dict[str, object]:
    """The results of the checks."""
    from thinwire.cli.verify import summary
    from thinwire.verify import Verdict

    return summary(Verdict.load(folder))


def _agreement(agreed: "Agreement") -> Iterator[tuple[str, Sequence[object]]]:
    """Correlations of per-token losses with the dense model's, and variance explained, by junction."""
    yield "correlation to_sparse", [asdict(each) for each in agreed.to_sparse]
    yield "correlation to_dense", [asdict(each) for each in agreed.to_dense]
    yield "explained_encode", agreed.explained_encode
    yield "explained_decode", agreed.explained_decode


def bridge_details(folder: Path) -> dict[str, object]:
    """The last stage of a bridge's fit, and the held-out losses of its crossings."""
    from thinwire.bridge.store import load_bridge

    stored = load_bridge(folder)
    profile, bridge = stored.summary.profile, stored.bridge
    agreed = stored.summary.agreement
    by_point: dict[str, object] = {
        f"{name} h_{point}": value
        for name, values in (
            ("to_sparse", profile.to_sparse),
            ("to_dense", profile.to_dense),
            ("nmse_encode", profile.nmse_encode),
            ("nmse_decode", profile.nmse_decode),
            *(() if agreed is None else _agreement(agreed)),
        )
        for (point, _), value in zip(bridge.junctions, values, strict=True)
    }
    return {
        "stage": stored.summary.stage,
        "d_dense": bridge.d_dense,
        "d_sparse": bridge.d_sparse,
        "n_active": bridge.keep.k,
        "dense_loss": profile.dense,
        "sparse_loss": profile.sparse,
        "gap_dense_to_sparse": profile.gap_to_sparse,
        "gap_sparse_to_dense": profile.gap_to_dense,
        **({} if agreed is None else {"correlation sparse": asdict(agreed.sparse), "agreement_tokens": agreed.tokens}),
        **by_point,
        "seconds": stored.summary.seconds,
    }


DETAILS: dict[str, Callable[[Path], dict[str, object]]] = {
    "tokens": tokens_details,
    "model": model_details,
    "circuit": circuit_details,
    "verdict": verdict_details,
    "bridge": bridge_details,
}
"""What `info` adds for the formats of this package; an artefact of any other registered format is described without."""
