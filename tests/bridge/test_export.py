"""Export in the layout of sparse autoencoders: the weights alone compute what the bridge does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinwire import artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.export import export_sae
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.profile import Profile
from thinwire.bridge.store import BridgeSummary, load_bridge, save_bridge
from thinwire.data import Tokens
from thinwire.errors import UserError


def test_weights_compute_what_the_bridge_does(tiny_tokens: Tokens, tmp_path: Path) -> None:
    bridge = Bridge((Junction(0, 0), Junction(1, 2)), d_dense=6, d_sparse=10, n_active=4).requires_grad_(False)
    bridge.set_scales(torch.tensor([2.0, 0.5]), torch.tensor([3.0, 7.0]))
    parents = {role: replace(tiny_tokens.artifact) for role in ("dense", "sparse", "tokens")}
    profile = Profile(1.0, 1.0, [1.0] * 2, [1.0] * 2, [1.0] * 2, [1.0] * 2)
    summary = BridgeSummary(stage="ridge", seconds=1.0, profile=profile)
    save_bridge(tmp_path / "bridge", bridge, BridgeConfig(n_active=4), parents, summary)
    stored = load_bridge(tmp_path / "bridge")
    folders = export_sae(stored, tmp_path / "sae")
    assert [folder.name for folder in folders] == ["h_0", "h_2"]
    dense, sparse = torch.randn(5, 6), torch.randn(5, 10)
    for i, folder in enumerate(folders):
        weights, config = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "cfg.json").read_text())
        assert (config["d_in"], config["d_sae"], config["k"]) == (6, 10, 4)
        assert config["metadata"]["dense_point"] == i
        latent = dense @ weights["W_enc"] + weights["b_enc"]
        smallest = latent.abs().topk(config["k"]).values[:, -1:]
        kept = torch.where(latent.abs() >= smallest, latent, 0)
        assert torch.allclose(kept, bridge.encode(i, dense), atol=1e-5)
        assert torch.allclose(sparse @ weights["W_dec"] + weights["b_dec"], bridge.decode(i, sparse), atol=1e-5)
    stamp = (folders[0] / "cfg.json").stat().st_mtime_ns
    assert export_sae(stored, tmp_path / "sae") == folders
    assert (folders[0] / "cfg.json").stat().st_mtime_ns == stamp, "the same command finds them"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine exists already; name a new folder for --sae"):
        export_sae(stored, tmp_path / "mine")
    with pytest.raises(UserError, match=r"lies in the artefact .*; choose another --sae"):
        export_sae(stored, tmp_path / "bridge/sae")
    other = bridge.requires_grad_(False)
    other.set_scales(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
    save_bridge(tmp_path / "other", other, BridgeConfig(n_active=4), parents, summary)
    with pytest.raises(UserError, match="sae has the maps of another bridge; name a new folder for --sae"):
        export_sae(load_bridge(tmp_path / "other"), tmp_path / "sae")
    assert artifact.open_artifact(tmp_path / "bridge", "bridge").id == config["metadata"]["bridge"]
