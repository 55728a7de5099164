"""Checkpoints: one safetensors file with the parameters and both moments, written atomically, read back bit for bit."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from thinwire import artifact
from thinwire.errors import UserError
from thinwire.train.step import State

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(state: State, path: Path, parents: dict[str, str], seconds: float) -> None:
    """Write everything that the rest of the run depends on, and the seconds spent so far."""
    tensors = {f"buffer/{name}": buffer for name, buffer in state.objective.named_buffers()}
    for name, parameter in state.objective.named_parameters():
        tensors[f"value/{name}"] = parameter.detach()
        for moment, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}/{name}"] = value
    metadata = {"run": json.dumps({"step": state.step, "parents": parents, "seconds": seconds})}
    with artifact.atomic(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


@torch.no_grad()
def restore(state: State, path: Path, parents: dict[str, str]) -> float:
    """Put a fresh `state` where the checkpoint left off; returns the seconds spent until then.

    Raises UserError when the file is damaged or was made from other parents.
    """
    try:
        with safe_open(path, framework="pt") as file:
            run = json.loads(file.metadata()["run"])
            for role in run["parents"].keys() | parents.keys():
                if run["parents"].get(role) != parents.get(role):
                    raise UserError(f"{path} was trained with other {role}; resume with that or choose another --out.")
            for name, buffer in state.objective.named_buffers():
                buffer.copy_(file.get_tensor(f"buffer/{name}"))
            for name, parameter in state.objective.named_parameters():
                parameter.copy_(file.get_tensor(f"value/{name}"))
                state.optimizer.state[parameter] = {m: file.get_tensor(f"{m}/{name}").clone() for m in MOMENTS}
        state.step, seconds = int(run["step"]), float(run["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError):
        raise UserError(f"{path} is damaged; delete the folder {path.parent} and train again.") from None
    return seconds
