"""The maps of a bridge in the layout of sparse autoencoders, which other tools read: a folder for each point."""

import json
from pathlib import Path

from torch import Tensor

from thinwire import artifact
from thinwire.artifact.place import room_for
from thinwire.artifact.scratch import scratch_beside
from thinwire.artifact.tensors import write_tensors
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.store import StoredBridge
from thinwire.errors import UserError
from thinwire.files import read_text

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def check_export(out: Path) -> None:
    """Raise UserError unless a new folder can be written at `out`, or there is an export already."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not exports_in(out))):
        raise UserError(f"{out} exists already; name a new folder for --sae.")
    artifact.refuse_inside(out, "--sae")
    artifact.check_place(out, "--sae")


def exports_in(out: Path) -> set[str]:
    """Content hashes of the bridges whose exported maps are in a folder; empty where it holds anything else."""
    found: set[str] = set()
    for folder in out.iterdir():
        try:
            found.add(str(json.loads(read_text(folder / CONFIG))["metadata"]["bridge"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return set()
    return found


def export_sae(stored: StoredBridge, out: Path) -> list[Path]:
    """Write `h_I/cfg.json` and `h_I/sae_weights.safetensors` for each residual point I of the sparse model.

    Weights are those of SAELens: `latent = AbsTopK(x @ W_enc + b_enc)` is the sparse model's stream and
    `x = latent @ W_dec + b_dec` the dense model's, [d_in] and [d_sae] wide. The bridge's scales are folded in.
    They appear at once; those of the same bridge are reused. Raises UserError as `check_export` does, and for those of
    another bridge.
    """
    check_export(out)
    names = [f"h_{junction.sparse}" for junction in stored.bridge.junctions]
    there = exports_in(out) if out.is_dir() else set()
    if there - {stored.artifact.id}:
        raise UserError(f"{out} has the maps of another bridge; name a new folder for --sae.")
    if not there:
        artifact.make_parents(out)
        with room_for(out), scratch_beside(out.resolve()) as scratch:
            for i, junction in enumerate(stored.bridge.junctions):
                (scratch / names[i]).mkdir()
                write_tensors(scratch / names[i] / WEIGHTS, _weights(stored.bridge, i))
                artifact.write_text(scratch / names[i] / CONFIG, json.dumps(_config(stored, junction), indent=2))
            artifact.put_in_place(scratch, out.resolve())
    return [out / name for name in names]


def _weights(bridge: Bridge, i: int) -> dict[str, Tensor]:
    """The maps of a junction on streams as they are: inputs and outputs are not scaled."""
    dense, sparse = bridge.dense_scales[i], bridge.sparse_scales[i]
    encoder, decoder = bridge.encoders[i], bridge.decoders[i]
    return {
        "W_enc": encoder.get_parameter("weight").T * sparse / dense,
        "b_enc": encoder.get_parameter("bias") * sparse,
        "W_dec": decoder.get_parameter("weight").T * dense / sparse,
        "b_dec": decoder.get_parameter("bias") * dense,
    }


def _config(stored: StoredBridge, junction: Junction) -> dict[str, object]:
    bridge, parents = stored.bridge, stored.artifact.meta.parents
    return {
        "architecture": "abstopk",
        "k": bridge.keep.k,
        "d_in": bridge.d_dense,
        "d_sae": bridge.d_sparse,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "bridge": stored.artifact.id,
            "dense_model": parents["dense"],
            "sparse_model": parents["sparse"],
            "dense_point": junction.dense,
            "sparse_point": junction.sparse,
        },
    }
