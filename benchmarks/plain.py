"""The plain-PyTorch twin of a training step: `torch.topk` everywhere, library attention, projection after every step.

It computes what `thinwire.train.step` computes, written the way one writes it first; benchmarks quote speed against it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinwire.engine.sites.operator import FUNCTIONS
from thinwire.engine.sites.pointwise import Ablation
from thinwire.model import AbsTopK, Transformer, next_token_loss
from thinwire.model.attention import Attention
from thinwire.model.precision import autocast
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import TrainConfig
from thinwire.train.l0 import budget
from thinwire.train.schedule import learning_rate_at


class PlainAbsTopK(nn.Module):
    """AbsTopK through `torch.topk` and a scatter."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(
        self, x: Tensor, by: nn.Module | None = None, nonlinearity: str = "identity", ablation: Ablation | None = None
    ) -> Tensor:  # [..., width]
        if by is not None:
            x = FUNCTIONS[nonlinearity](by(x))
        index = x.abs().topk(self.k, dim=-1, sorted=False).indices
        kept = torch.zeros_like(x).scatter(-1, index, x.gather(-1, index))
        return kept if ablation is None else ablation.apply(kept)


class PlainAttention(nn.Module):
    """Attention through the library's fused kernel; a sink is one more key, of value zero, and a mask of its logits."""

    def __init__(self, ours: Attention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, resid: Tensor, positions: Tensor | None, tap, norms) -> Tensor:
        """What attention adds to resid [batch, pos, d_model]."""
        ours = self.ours
        x = ours.read(resid, positions, tap, norms)
        q, k, v = (ours.by_head(ours.at(n, w(x), tap)) for n, w in (("q", ours.w_q), ("k", ours.w_k), ("v", ours.w_v)))
        if ours.sink is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            n = resid.shape[1]
            causal = torch.full((n, n), -torch.inf, dtype=q.dtype).triu(1).expand(len(ours.sink), n, n)
            mask = torch.cat([ours.sink.to(q.dtype)[:, None, None].expand(-1, n, 1), causal], -1)
            k, v = (F.pad(x, (0, 0, 1, 0)) for x in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return ours.at("resid_delta", ours.w_o(y.transpose(1, 2).flatten(2)), tap)


def plain_model(model: Transformer) -> Transformer:
    """The model, its AbsTopK and attention replaced in place by plain ones."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AbsTopK) and child.k < child.width:
                setattr(parent, name, PlainAbsTopK(child.k))
    for block in model.blocks:
        block.attn = PlainAttention(block.attn)  # pyright: ignore
    return model


class PlainTrainer:
    """A model and optimizer of the plain kind; `step(batch)` trains."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model = plain_model(Transformer(config.model, seed=config.seed))
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and n != "bigram.weight"]
        others = [p for n, p in self.model.named_parameters() if not (p.ndim == 2 and n != "bigram.weight")]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.epsilon)
        self.n_steps = 0

    def step(self, batch: Tensor) -> float:
        """One step on batch [batch, context + 1]; returns the loss."""
        config, device = self.config, batch.device
        with autocast(config.precision, device):
            logits = self.model(batch[:, :-1])
        loss = next_token_loss(logits, batch[:, 1:])
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf"))
        rms = norm / sum(p.numel() for p in parameters) ** 0.5
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= rms
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.n_steps, config)
        self.optimizer.step()
        self.n_steps += 1
        self.project()
        return loss.item()

    @torch.no_grad()
    def project(self) -> None:
        """Keep the largest magnitudes of every parameter, through `torch.topk`."""
        kept = {name.replace(".ours", ""): k for name, k in budget(self.model, self.n_steps, self.config).items()}
        for name, parameter in sparse_parameters(self.model):
            k, dim = kept[name.replace(".ours", "")], floor_dim(name)
            if k < parameter.numel():
                score = parameter.abs()
                if dim is not None and self.config.floor:
                    score.scatter_(dim, score.topk(self.config.floor, dim=dim).indices, float("inf"))
                mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
                mask[score.flatten().topk(k).indices] = True
                parameter.mul_(mask.view_as(parameter))
