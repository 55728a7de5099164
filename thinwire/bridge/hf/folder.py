"""Opening a folder of a Hugging Face model as the dense model of a bridge.

Such a folder is not ours: nothing in it is run or unpickled, nothing is fetched, and only weights in safetensors files
are read. It takes the place of a model artefact through the content hashes of its config and weight files.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from thinwire.artifact import CONFIG, Artifact, FileEntry, Meta, is_finished, sha256, version
from thinwire.artifact.tensors import is_finite
from thinwire.bridge.hf import families
from thinwire.bridge.hf.target import HFTarget
from thinwire.data.tokenizer import MAX_BYTES, Tokenizer
from thinwire.errors import UserError
from thinwire.files import read_text

FAMILIES = families.FAMILIES
FORMAT = "hf-model"
"""Format of the artefact that such a folder counts as; it has no `meta.json`, and none is written."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names the files of weights that are split."""
LEAST_VERSION = (5, 24)
"""Of `transformers`, whose internals the adapters call; as pyproject.toml has it."""
LARGEST = {"n_layer": 10_000, "num_hidden_layers": 10_000, "num_labels": 100_000}
LARGEST_NUMBER = 2**26
"""Largest numbers in a config by name, and any other: beyond them the library builds without end."""
REMEDY = "give a folder that save_pretrained wrote"
LARGEST_DIFFERENCE = 1e-3
"""Logits of an adapter and of the model itself differ by no more, relative to the largest."""


def is_hf_folder(folder: Path | str) -> bool:
    """Whether a folder is that of a Hugging Face model: its `config.json` has a `model_type`, and it is no artefact."""
    return not is_finished(Path(folder)) and "model_type" in _json(Path(folder) / CONFIG)


def contents(folder: Path) -> Artifact:
    """The config and weight files of a model with their hashes. Raises UserError where weights are missing."""
    files = {name: folder / name for name in (CONFIG, *_weight_files(folder))}
    try:
        entries = {n: FileEntry(bytes=path.stat().st_size, sha256=sha256(path)) for n, path in files.items()}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); {REMEDY}.") from None
    return Artifact(folder, Meta(format=FORMAT, version=1, thinwire=version(), seed=None, parents={}, files=entries))


def _weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that hold the weights, an index included."""
    if (folder / WEIGHTS).exists():
        return (WEIGHTS,)
    if not (folder / INDEX).exists():
        raise UserError(
            f"{folder} has no {WEIGHTS}, and weights in other formats are never read, since they may run code; "
            "save the model with save_pretrained of transformers 5."
        )
    places = _json(folder / INDEX).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise UserError(f"{folder / INDEX} does not name safetensors files of its folder; {REMEDY}.")
    return (INDEX, *names)


def load_hf(folder: Path | str) -> HFTarget:
    """The dense model in a folder of a Hugging Face model, in float32, with its weights frozen.

    Raises UserError, in one sentence, for models of other families, for damaged folders, and without `transformers`.
    """
    folder = Path(folder)
    config = _json(folder / CONFIG)
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise UserError(f"{folder} is a model of type {kind[:40]}; a dense model may be of type {', '.join(FAMILIES)}.")
    _refuse(folder, config)
    library = transformers()
    family = FAMILIES[kind]
    with _quiet(library):
        try:
            model, found = getattr(library, family.architecture).from_pretrained(
                folder.resolve(),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # the library raises what it likes about a damaged folder
            words = " ".join(str(error).split()).rstrip(".:")
            raise UserError(f"{folder} cannot be loaded ({type(error).__name__}: {words[:200]}); {REMEDY}.") from None
        foreign = sorted({*found["missing_keys"], *found["unexpected_keys"]})
        if foreign:
            raise UserError(f"The weights of {folder} do not fit its config ({foreign[0]}, for one); {REMEDY}.")
        if unfit := next((name for name, weight in model.named_parameters() if not is_finite(weight)), None):
            raise UserError(f"{folder} holds numbers that are not finite, in {unfit}; {REMEDY}.")
        target = family(model.requires_grad_(False))
        _check_logits(folder, target)
    return target


def _refuse(folder: Path, config: dict[str, Any]) -> None:
    """Raise UserError for what is no file, for missing weights, and for what would load more than is hashed."""
    if strange := next((x for x in folder.iterdir() if x.exists() and not (x.is_file() or x.is_dir())), None):
        raise UserError(f"{strange} is not a regular file; {REMEDY}.")
    _weight_files(folder)
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter beside a model; merge the adapter into the model and save that.")
    for name, value in config.items():
        if isinstance(value, int) and value > LARGEST.get(name, LARGEST_NUMBER):
            raise UserError(f"{folder / CONFIG} has {value} for {name}, which no model has; {REMEDY}.")
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder} holds a quantized model; give the model in its original precision.")


@torch.no_grad()
def _check_logits(folder: Path, target: HFTarget) -> None:
    """Raise UserError unless an adapter computes what the model does: a config may have options that it lacks.

    Where either overflows, that is due to the weights.
    """
    n = min(target.context, 16)
    tokens = torch.arange(n, dtype=torch.int64, device="cpu")[None] * 7919 % target.vocab_size
    theirs = target.model(tokens).logits
    ours = target.moved(tokens, {})
    if not (is_finite(theirs) and is_finite(ours)):
        raise UserError(f"The weights of {folder} are so large that its logits are not finite; {REMEDY}.")
    difference = float((ours - theirs).abs().max())
    if not difference <= LARGEST_DIFFERENCE * float(theirs.abs().max().clamp_min(1e-6)):
        raise UserError(f"The config of {folder} asks for what its adapter does not compute; give another model.")


def check_vocabulary(folder: Path, target: HFTarget, tokenizer: Tokenizer) -> None:
    """Raise UserError unless a model predicts the tokens of `tokenizer`.

    A `tokenizer.json` in its folder must hold the same ones. Without one, equal numbers of tokens have to do.
    """
    remedy = "give a dense and a sparse model, and tokens, of one tokenizer"
    if target.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"{folder} predicts {target.vocab_size} tokens and the tokenizer of the tokens has "
            f"{tokenizer.vocab_size}; {remedy}."
        )
    path = folder / "tokenizer.json"
    if path.exists() and _vocabulary(path) != {token: i for i, token in enumerate(tokenizer.tokens)}:
        raise UserError(f"{path} holds other tokens than the tokenizer of the tokens; {remedy}.")


def _vocabulary(path: Path) -> dict[str, int] | None:
    """Ids by token of a `tokenizer.json` of the tokenizers library; None where it is damaged or of another kind."""
    payload = _json(path, MAX_BYTES)
    try:
        added = {str(token["content"]): token["id"] for token in payload["added_tokens"]}
        return dict(payload["model"]["vocab"]) | added
    except (KeyError, TypeError, ValueError):
        return None


def _json(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        payload = json.loads(read_text(path, limit))
    except (OSError, ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def transformers() -> ModuleType:
    """The `transformers` package. Raises UserError where it is not installed, or too old."""
    try:
        import transformers
    except ImportError:
        transformers = None
    found = re.match(r"(\d+)\.(\d+)", transformers.__version__) if transformers else None
    if transformers is None or found is None or (int(found[1]), int(found[2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise UserError(f"Hugging Face models need transformers {least}; install it with `pip install 'thinwire[hf]'`.")
    return transformers


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the library's progress bars and warnings."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
