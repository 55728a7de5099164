"""The adapters, one for each family of Hugging Face causal models.

The modules of a model are called as the model itself calls them, so that an adapter's logits are the model's own.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from thinwire.bridge.hf.target import FAMILIES, Around, HFTarget


@FAMILIES.register("gpt2")
class GPT2Target(HFTarget):
    """GPT-2: LayerNorms, learned positions."""

    architecture: ClassVar[str] = "GPT2LMHeadModel"

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, d_model]."""
        body = self.model.transformer
        return body.wte(tokens) + body.wpe(self._positions(tokens))

    def norms(self, point: int) -> tuple[nn.Module, ...]:
        """See `HFTarget`."""
        body = self.model.transformer
        if point == self.n_points - 1:
            return (body.ln_f,)
        block = body.h[point // 2]
        return (block.ln_2 if point % 2 else block.ln_1,)

    def write(self, point: int, reads: tuple[Tensor, ...], around: Around) -> Tensor:
        """See `HFTarget`; reads and the result are [batch, pos, d_model]."""
        block = self.model.transformer.h[point // 2]
        return block.mlp(reads[0]) if point % 2 else block.attn(reads[0], attention_mask=around.mask)[0]


@FAMILIES.register("llama")
class LlamaTarget(HFTarget):
    """Llama: RMSNorms, rotary positions, queries that may share keys and values."""

    architecture: ClassVar[str] = "LlamaForCausalLM"

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, d_model]."""
        return self.model.model.embed_tokens(tokens)

    def rotary(self, resid: Tensor, positions: Tensor) -> Any:
        """See `HFTarget`; for resid [batch, pos, d_model]."""
        return self.model.model.rotary_emb(resid, position_ids=positions)

    def norms(self, point: int) -> tuple[nn.Module, ...]:
        """See `HFTarget`."""
        if point == self.n_points - 1:
            return (self.model.model.norm,)
        layer = self.model.model.layers[point // 2]
        return (layer.post_attention_layernorm if point % 2 else layer.input_layernorm,)

    def write(self, point: int, reads: tuple[Tensor, ...], around: Around) -> Tensor:
        """See `HFTarget`; reads and the result are [batch, pos, d_model]."""
        layer = self.model.model.layers[point // 2]
        if point % 2:
            return layer.mlp(reads[0])
        return layer.self_attn(reads[0], position_embeddings=around.rotary, attention_mask=around.mask)[0]


@FAMILIES.register("gpt_neox")
class NeoXTarget(HFTarget):
    """GPT-NeoX and Pythia: LayerNorms, rotary positions; attention and MLP in parallel, or one after the other.

    In parallel both read the same point, and a layer has no point between them.
    """

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"

    @property
    def is_parallel(self) -> bool:
        """See `HFTarget`."""
        return self.model.config.use_parallel_residual

    def embed(self, tokens: Tensor) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, d_model]."""
        return self.model.gpt_neox.embed_in(tokens)

    def rotary(self, resid: Tensor, positions: Tensor) -> Any:
        """See `HFTarget`; for resid [batch, pos, d_model]."""
        return self.model.gpt_neox.rotary_emb(resid, position_ids=positions)

    def norms(self, point: int) -> tuple[nn.Module, ...]:
        """See `HFTarget`."""
        if point == self.n_points - 1:
            return (self.model.gpt_neox.final_layer_norm,)
        layer = self.model.gpt_neox.layers[point // self.per_layer]
        both = layer.input_layernorm, layer.post_attention_layernorm
        return both if self.per_layer == 1 else (both[point % 2],)

    def write(self, point: int, reads: tuple[Tensor, ...], around: Around) -> Tensor:
        """See `HFTarget`; reads and the result are [batch, pos, d_model]."""
        layer = self.model.gpt_neox.layers[point // self.per_layer]
        if self.per_layer == 2 and point % 2:
            return layer.mlp(reads[0])
        added = layer.attention(reads[0], attention_mask=around.mask, position_embeddings=around.rotary)[0]
        return added if self.per_layer == 2 else added + layer.mlp(reads[1])
