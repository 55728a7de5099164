"""Folders of Hugging Face models as dense models: what is read and hashed, what is refused, and a bridge to one."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import case
from hf_pieces import KINDS, hf_model
from tiny import tiny_run

from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.hf.families import GPT2Target
from thinwire.bridge.hf.folder import check_vocabulary, contents, is_hf_folder, load_hf
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.stages import Ends, bridge_stage
from thinwire.stages.ends import Dense
from thinwire.train import train

CONFIG = BridgeConfig(ridge_tokens=2_000, bridge_steps=4, joint_steps=0, batch_size=4, validation_tokens=200)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 of 40 tokens, saved."""
    hf_model("gpt2").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def no_network(*args: object, **kwargs: object) -> None:
    raise AssertionError("the network was used")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_saved_model_is_opened_as_it_was(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = hf_model(kind), torch.arange(12)[None]
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    target = load_hf(tmp_path / "model")
    logits = target.unembed(target.run(target.embed(tokens), 0, target.n_points - 1), tokens)
    assert (logits - model(tokens).logits).abs().max() <= 1e-5
    assert not any(weight.requires_grad for weight in target.parameters())
    assert not target.model.training


def test_the_content_hash_is_of_config_and_weights(folder: Path, tmp_path: Path) -> None:
    found = contents(folder)
    assert set(found.meta.files) == {"config.json", "model.safetensors"}
    assert is_hf_folder(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("a card")
    assert contents(copy).id == found.id, "neither the place nor other files count"
    hf_model("gpt2", seed=3).save_pretrained(copy)
    assert contents(copy).id != found.id
    hf_model("gpt2").save_pretrained(tmp_path / "split", max_shard_size="10KB")
    split = contents(tmp_path / "split")
    assert "model.safetensors.index.json" in split.meta.files
    assert len(split.meta.files) > 3
    assert torch.equal(
        load_hf(tmp_path / "split").embed(torch.tensor([[1]])), load_hf(folder).embed(torch.tensor([[1]]))
    )


def rewritten(**changes: object) -> Callable[[Path], None]:
    """Changes of a folder's config."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncated(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])


def not_finite(folder: Path) -> None:
    model = hf_model("gpt2")
    model.transformer.wpe.weight.data[3, 2] = float("nan")
    model.save_pretrained(folder)


def too_large(folder: Path) -> None:
    model = hf_model("gpt2")
    model.transformer.h[0].attn.c_attn.weight.data.mul_(1e38)
    model.save_pretrained(folder)


def with_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "of another family": (
        rewritten(model_type="bert"),
        "of type bert; a dense model may be of type gpt2, llama",
    ),
    "weights that may run code": (pickled, "no model.safetensors, and weights in other formats are never read"),
    "weights elsewhere": (elsewhere, "does not name safetensors files of its folder"),
    "truncated": (truncated, "cannot be loaded"),
    "another depth": (rewritten(n_layer=3), "do not fit its config"),
    "fewer layers": (rewritten(n_layer=1), "do not fit its config"),
    "another width": (rewritten(n_embd=32), "cannot be loaded|do not fit"),
    "no width": (rewritten(n_embd="wide"), "cannot be loaded"),
    "not finite": (not_finite, "not finite, in transformer.wpe.weight"),
    "too large": (too_large, "weights of .* so large that its logits are not finite"),
    "adapter": (with_adapter, "merge the adapter"),
    "quantized": (rewritten(quantization_config={"quant_method": "bitsandbytes"}), "a quantized model"),
    "not causal": (rewritten(is_causal=False), "asks for what its adapter does not compute"),
    "cross-attention": (rewritten(add_cross_attention=True), "do not fit its config"),
    "a pipe": (lambda folder: os.mkfifo(folder / "generation_config"), "not a regular file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(name: str, folder: Path) -> None:
    change, said = REFUSED[name]
    change(folder)
    with pytest.raises(UserError, match=said) as caught:
        load_hf(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_computes_something_else_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT2Target, "embed", lambda self, tokens: self.model.transformer.wte(tokens))  # no positions
    with pytest.raises(UserError, match="asks for what its adapter does not compute"):
        load_hf(folder)


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    (folder / "mine.py").write_text("raise AssertionError('run')")
    rewritten(auto_map={"AutoModelForCausalLM": "mine.Mine", "AutoConfig": "mine.Config"})(folder)
    load_hf(folder)


def test_the_library_is_imported_only_where_it_is_needed() -> None:
    program = "import sys, thinwire.stages.ends, thinwire.bridge.hf.folder; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_the_library_a_sentence_names_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, SimpleNamespace(__version__="4.57.1")):
        monkeypatch.setitem(sys.modules, "transformers", found)
        with pytest.raises(UserError, match=r"need transformers 5.24; install it with `pip install 'thinwire\[hf\]'`"):
            load_hf(folder)


def test_the_vocabulary_must_be_the_tokens_own(folder: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    tokenizer = tiny_tokens.tokenizer
    n = tokenizer.vocab_size
    with pytest.raises(UserError, match=f"predicts 40 tokens and the tokenizer of the tokens has {n}"):
        Dense.open(folder, tokenizer)
    hf_model("gpt2", vocab_size=n).save_pretrained(folder)
    check_vocabulary(folder, load_hf(folder), tokenizer)
    tokenizer.save(folder / "tokenizer.json")
    found = Dense.open(folder, tokenizer)
    assert found.artifact.id == contents(folder).id
    payload = json.loads((folder / "tokenizer.json").read_text())
    one, two = list(payload["model"]["vocab"])[5:7]
    vocab = payload["model"]["vocab"]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (folder / "tokenizer.json").write_text(json.dumps(payload))
    with pytest.raises(UserError, match="holds other tokens"):
        Dense.open(folder, tokenizer)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="holds other tokens"):
        Dense.open(folder, tokenizer)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory, tiny_tokens: Tokens) -> Path:
    """A sparse model, trained a little."""
    folder = tmp_path_factory.mktemp("hf") / "sparse"
    train(tiny_run(seed=1), tiny_tokens, folder)
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "neox parallel"])
def test_a_bridge_to_a_hugging_face_model(kind: str, sparse: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    hf_model(kind, vocab_size=tiny_tokens.tokenizer.vocab_size).save_pretrained(tmp_path / "dense")
    ends = Ends.open(tmp_path / "dense", sparse, tiny_tokens)
    found = bridge_stage(ends, tmp_path / "work", CONFIG)
    ridge, maps = (stored.summary.profile for stored in found.values())
    assert len(maps.to_sparse) == (3 if kind == "neox parallel" else 5)
    assert maps.dense == pytest.approx(ridge.dense, rel=1e-5)
    assert maps.to_sparse != pytest.approx(ridge.to_sparse, rel=1e-5)
    assert maps.to_dense != pytest.approx(ridge.to_dense, rel=1e-5)
    assert found["maps"].artifact.meta.parents["dense"] == contents(tmp_path / "dense").id
    again = bridge_stage(Ends.open(tmp_path / "dense", sparse, tiny_tokens), tmp_path / "work", CONFIG)
    assert [stored.artifact.id for stored in again.values()] == [stored.artifact.id for stored in found.values()]
    hf_model(kind, seed=5, vocab_size=tiny_tokens.tokenizer.vocab_size).save_pretrained(tmp_path / "dense")
    with pytest.raises(UserError, match="differs in its dense model"):
        bridge_stage(Ends.open(tmp_path / "dense", sparse, tiny_tokens), tmp_path / "work", CONFIG)
    hf_model(kind, num_hidden_layers=3, vocab_size=tiny_tokens.tokenizer.vocab_size).save_pretrained(tmp_path / "deep")
    with pytest.raises(UserError, match=r"\(3 and 2 layers\); give two models of the same depth"):
        Ends.open(tmp_path / "deep", sparse, tiny_tokens)
    hf_model(kind, max_position_embeddings=8, vocab_size=tiny_tokens.tokenizer.vocab_size).save_pretrained(
        tmp_path / "short"
    )
    with pytest.raises(UserError, match="takes 8 tokens at most and the sparse one 16"):
        Ends.open(tmp_path / "short", sparse, tiny_tokens)


def test_sizes_that_no_model_has_are_refused_before_anything_is_built(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in (("n_layer", 10**9), ("num_labels", 10**9), ("vocab_size", 10**12)):
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        with case(name), pytest.raises(UserError, match=f"has {value} for {name}, which no model has; give a folder"):
            load_hf(folder)
