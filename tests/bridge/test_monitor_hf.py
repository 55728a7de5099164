"""Monitors of Hugging Face models: channels are the encoder's, logits and generated tokens the model's own."""

import pytest
import torch
from tiny import tiny_model, tiny_prompts

from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.monitor import Monitor
from thinwire.bridge.watched import Watched
from thinwire.model.config import SampleConfig

pytest.importorskip("transformers")
pytest.importorskip("thinwire.bridge.hf")


@pytest.mark.parametrize("kind", ["gpt2", "llama grouped", "neox parallel"])
def test_a_hugging_face_model_is_monitored(kind: str) -> None:
    from hf_pieces import hf_model, hf_target

    stock, target, sparse = hf_model(kind), hf_target(kind), tiny_model(0.2)
    step = 4 // (target.n_points - 1)
    torch.manual_seed(0)
    bridge = Bridge(tuple(Junction(i, i * step) for i in range(target.n_points)), 16, 16)
    names = ("h_4:3", "0.attn.act_in:5", "1.attn.q:2.1", "h_2:0")
    monitor = Monitor(target, bridge, sparse, [Watched.parse(name, sparse.config) for name in names])
    tokens = tiny_prompts(sparse)
    with torch.no_grad():
        found = monitor.observe(tokens)
        assert torch.allclose(found.logits, stock(tokens).logits, atol=1e-4)
        resid = target.run(target.embed(tokens), 0, target.n_points - 1)
        encoded = bridge.encode(target.n_points - 1, resid)
        assert torch.allclose(found.values[..., 0], encoded[..., 3], atol=1e-5)
    steps = list(monitor.generate(tokens[:1], SampleConfig(tokens=4, temperature=0.0)))
    text = torch.cat([tokens[:1], *(step.tokens[:, None] for step in steps)], 1)
    with torch.no_grad():
        assert torch.equal(text[:, 9:], stock(text[:, :-1]).logits[:, 8:].argmax(-1))
    streamed = torch.cat([step.values for step in steps], 1)
    assert torch.allclose(streamed, monitor.values(text[:, :-1]), atol=1e-4)
