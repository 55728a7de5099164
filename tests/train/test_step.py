"""One optimizer step: gradient normalization, AdamW by hand, and the golden run."""

import json
from pathlib import Path

import pytest
import torch
from cases import case
from tiny import synthetic_batch, tiny_model, tiny_run

from thinwire.model import next_token_loss
from thinwire.train.step import new_state, normalize_gradient, train_step

GOLDEN = Path(__file__).parent.parent / "golden" / "train_30_steps.json"


def test_gradient_scaling() -> None:
    """Entries 4, 0, 0, 0 have RMS 2."""
    for how, scale, expected in [
        ("normalize", 1.0, 1 / 2),
        ("normalize", 0.01, 1 / 0.02),
        ("clip", 1.0, 1 / 2),
        ("clip", 0.01, 1.0),
        ("none", 1.0, 1.0),
    ]:
        with case(how, scale, expected):
            gradients = [torch.tensor([4.0, 0.0]) * scale, torch.zeros(1, 2)]
            rms = normalize_gradient(gradients, how)
            assert rms.item() == pytest.approx(2 * scale)
            assert gradients[0][0].item() == pytest.approx(4 * scale * expected)


def test_step_is_adamw_on_the_normalized_gradient() -> None:
    config = tiny_run(density=1.0, steps=10, weight_decay=0.25, epsilon=0.1, warmup=0, learning_rate=0.05)
    state, twin = new_state(config), new_state(config).model
    batch = synthetic_batch(0, config)
    loss = next_token_loss(twin(batch[:, :-1]), batch[:, 1:])
    loss.backward()
    grads = {name: p.grad for name, p in twin.named_parameters()}
    flat = torch.cat([g.flatten() for g in grads.values() if g is not None])
    rms = flat.double().square().mean().sqrt().item()
    done = train_step(state, batch, config)
    assert done.loss == pytest.approx(loss.item())
    assert done.gradient_rms == pytest.approx(rms, rel=1e-4)
    assert done.learning_rate == 0.05
    for name, before in twin.named_parameters():
        gradient = grads[name]
        assert gradient is not None
        decayed = before.ndim == 2 and name != "bigram.weight"
        shrunk = before * (1 - 0.05 * 0.25) if decayed else before
        # after one step Adam's corrected moments are the gradient and its square
        expected = shrunk - 0.05 * (gradient / rms) / ((gradient / rms).abs() + 0.1)
        torch.testing.assert_close(state.model.get_parameter(name), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_recomputing_changes_no_step() -> None:
    models = []
    for recompute in (False, True):
        config = tiny_run(recompute=recompute, steps=3)
        state = new_state(config)
        for step in range(3):
            train_step(state, synthetic_batch(step, config), config)
        models.append(state.model.state_dict())
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def golden_losses() -> list[float]:
    config = tiny_run(steps=30, floor=1, model=tiny_model(sink=True, positions="concatenated").config)
    state = new_state(config)
    return [train_step(state, synthetic_batch(step, config), config).loss for step in range(config.steps)]


def test_golden_30_steps() -> None:
    """A relative tolerance of 1e-3: the order in which a machine sums may move a weight across the top-k boundary."""
    losses = golden_losses()
    assert losses[-1] < losses[0] - 0.3
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


if __name__ == "__main__":  # python tests/train/test_step.py writes the golden file anew
    GOLDEN.write_text(json.dumps([round(loss, 6) for loss in golden_losses()], indent=0) + "\n")
