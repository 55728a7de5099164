"""Shipping: a trained model as a small artefact, whose losses are measured after rounding.

1. Store the weights with dense matrices in 8 bits, and read them back.
2. Measure the validation loss and count the nonzeros of what was read.
3. Finish an artefact of its own, with the trained model among its parents.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from thinwire import artifact
from thinwire.data import Tokens
from thinwire.model.weights import load, load_weights, save_weights
from thinwire.train.config import TrainConfig
from thinwire.train.loop import check_device
from thinwire.train.result import OBJECTIVE, TrainResult, read_result, result_of, write_summary
from thinwire.train.stats import validation_losses

COPIED = ("model.json", "tokenizer.json", artifact.METRICS)
"""Files of the trained model that the shipped one has unchanged; the metrics are those of the training.

So is the file of the objective, where the trained model has one.
"""


def ship(source: Path | str, tokens: Tokens, out: Path | str, device: str = "cpu") -> TrainResult:
    """Write the trained model in `source` compactly into the folder `out`, or return what was written there before.

    The result is that of the training, with the losses and counts of the stored model.
    Raises UserError when `source` was not trained on these tokens, or `out` holds anything but a model.
    """
    trained, out = artifact.open_artifact(Path(source), "model"), Path(out)
    artifact.require_parent(trained, "tokens", tokens.artifact)
    check_device(device)
    if artifact.is_finished(out) and artifact.read_meta(out / "meta.json").parents.get("model") == trained.id:
        return read_result(out)
    config = trained.config(TrainConfig)
    model = load(trained.path)
    with artifact.replacing(out, "model") as folder:
        save_weights(model, folder / "weights.safetensors", round_dense=True)
        load_weights(model, folder / "weights.safetensors")
        losses = validation_losses(model.to(torch.device(device)), tokens, config)
        result = result_of(model, config, tokens, losses, config.steps, read_result(trained.path).seconds)
        write_summary(folder, result)
        copied = [*COPIED, *([OBJECTIVE] if OBJECTIVE in trained.meta.files else [])]
        for name in copied:
            shutil.copyfile(trained.file(name), folder / name)
        files = ["weights.safetensors", artifact.SUMMARY, *copied]
        parents = {"tokens": tokens.artifact, "model": trained}
        artifact.finish(folder, "model", config, parents, files, seed=config.seed)
    return replace(result, out=str(out))
