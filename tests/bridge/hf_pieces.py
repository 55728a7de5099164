"""Very small random Hugging Face models for tests."""

from typing import Any

import pytest
import torch

from thinwire.bridge.hf.folder import FAMILIES
from thinwire.bridge.hf.target import HFTarget

transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GROWN = COMMON | {"intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", COMMON | {"max_position_embeddings": 20}),
    "gpt2 scaled by layer": ("gpt2", COMMON | {"n_positions": 20, "scale_attn_by_inverse_layer_idx": True}),
    "llama": ("llama", GROWN),
    "llama grouped": ("llama", GROWN | {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", GROWN | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "neox parallel": ("gpt_neox", GROWN | {"use_parallel_residual": True}),
    "neox": ("gpt_neox", GROWN | {"use_parallel_residual": False, "tie_word_embeddings": True}),
}


def hf_model(kind: str, seed: int = 0, **changes: object) -> Any:
    """A random model of a kind in `KINDS`, in float32, in which no bias, gain or mean is as it is initialized."""
    model_type, options = KINDS[kind]
    family = getattr(transformers, FAMILIES[model_type].architecture)
    torch.manual_seed(seed)
    model = family(family.config_class(**(options | changes)))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim == 1 else 0.5 if "embed" in name or "wte" in name else 0.2
            parameter.normal_(1.0 if "ln" in name or "norm" in name else 0.02, scale, generator=generator)
    return model.eval()


def hf_target(kind: str, seed: int = 0, **changes: object) -> HFTarget:
    """The adapter of such a model."""
    return FAMILIES[KINDS[kind][0]](hf_model(kind, seed, **changes))
