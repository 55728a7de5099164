"""What a run measures of itself: lines of metrics.jsonl, and the validation loss of each corpus part."""

import json
from pathlib import Path

import torch

from thinwire import artifact
from thinwire.data import Tokens
from thinwire.model.precision import uses_bf16
from thinwire.model.transformer import Transformer, next_token_loss
from thinwire.train.config import TrainConfig


class Metrics:
    """An append-only metrics.jsonl; re-entered at `step`, it drops the lines that a resumed run will write again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            artifact.write_text(path, "".join(line + "\n" for line in lines))

    def add(self, **values: object) -> None:
        """Append one line of JSON."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    """The step a line was written at; a line cut short by a crash counts as later than any."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


@torch.no_grad()
def validation_losses(model: Transformer, tokens: Tokens, config: TrainConfig) -> dict[str, float]:
    """Held-out cross-entropy in nats per token, per corpus part, on `validation_tokens` tokens of each."""
    device = next(model.parameters()).device
    losses = {}
    for part in tokens.parts:
        wanted = min(config.validation_tokens, tokens.n_tokens(part, "validation") - 1)
        rows = torch.from_numpy(tokens.validation(part, wanted, config.model.context))
        total = 0.0
        for batch in rows.split(config.batch_size):
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config.precision, device)):
                logits = model(batch[:, :-1])
            total += next_token_loss(logits, batch[:, 1:]).item() * len(batch)
        losses[part] = total / len(rows)
    return losses
