"""Trains a small GPT-2-style Hugging Face model on a tokens artefact, as the dense model of a bridge.

usage: .venv/bin/python recipes/hf_model.py TOKENS --out DIR [--context 128] [--layers 2] [--width 128] [--heads 4]
           [--steps 600] [--batch-size 16] [--rate 0.002] [--seed 0] [--json]

Leaves an ordinary Hugging Face folder with the tokens' tokenizer.json. A few minutes on one core. Then:

    thinwire bridge DIR SPARSE --tokens TOKENS --out runs/hf-bridge
"""

import argparse
import json
import time
from pathlib import Path

import torch

from thinwire.bridge.hf.folder import transformers
from thinwire.cli.common import progress
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import next_token_loss
from thinwire.progress import Report
from thinwire.train.schedule import linear_rate

WARMUP = 0.05
VALIDATION_TOKENS = 16_384
"""Held-out tokens per corpus part."""


def read_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tokens", type=Path, help="tokens artefact")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; must not exist")
    parser.add_argument("--context", type=int, default=128, help="tokens of a sequence: at least the sparse model's")
    parser.add_argument("--layers", type=int, default=2, help="as many as the sparse model has")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    return parser.parse_args()


def new_model(args: argparse.Namespace, vocab_size: int) -> torch.nn.Module:
    """A GPT-2 of this shape, randomly initialized."""
    library = transformers()
    shape = library.GPT2Config(
        vocab_size=vocab_size,
        n_positions=args.context,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(args.seed)
    return library.GPT2LMHeadModel(shape)


def fit(model: torch.nn.Module, tokens: Tokens, args: argparse.Namespace, report: Report) -> None:
    """Train a model in place by AdamW."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    model.train()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = linear_rate(args.rate, step, args.steps, WARMUP)
        rows = torch.from_numpy(tokens.batch(step, args.seed, args.batch_size, args.context))
        loss = next_token_loss(model(rows[:, :-1]).logits, rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step + 1, args.steps, f"loss {float(loss.detach()):.3f}")


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, tokens: Tokens, context: int) -> float:
    """Held-out cross-entropy, nats per token, corpus parts weighted as in training."""
    model.eval()
    found = []
    for part in tokens.parts:
        wanted = min(VALIDATION_TOKENS, tokens.n_tokens(part, "validation") - 1)
        rows = torch.from_numpy(tokens.validation(part, wanted, context)).split(16)
        losses = [(len(batch), float(next_token_loss(model(batch[:, :-1]).logits, batch[:, 1:]))) for batch in rows]
        mean = sum(n * loss for n, loss in losses) / sum(n for n, _ in losses)
        found.append((tokens.config.weight(part), mean))
    return sum(weight * loss for weight, loss in found) / sum(weight for weight, _ in found)


def main() -> None:
    """Train, save, and print the held-out loss."""
    args = read_args()
    if args.out.exists():
        raise UserError(f"{args.out} exists; choose another --out.")
    tokens, began = Tokens.open(args.tokens), time.perf_counter()
    model = new_model(args, tokens.tokenizer.vocab_size)
    with progress("train") as report:
        fit(model, tokens, args, report)
    loss = held_out_loss(model, tokens, args.context)
    model.save_pretrained(args.out)  # pyright: ignore
    tokens.tokenizer.save(args.out / "tokenizer.json")
    seconds = time.perf_counter() - began
    size = sum(p.numel() for p in model.parameters())
    print(f"{args.out}: {size:,} parameters, held-out loss {loss:.3f} nats per token, {seconds:.0f} s")
    if args.json:
        print(json.dumps({"out": str(args.out), "parameters": size, "held_out_loss": loss, "seconds": seconds}))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
