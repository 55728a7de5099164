"""Fitting: the regression recovers a linear map; the stages run, resume, and refuse what does not fit."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_run

from thinwire import artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.crossings import OwnPass, Pair
from thinwire.bridge.maps import Bridge, Junction, matching_points
from thinwire.bridge.ridge import fit_ridge
from thinwire.bridge.store import load_bridge
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.weights import load
from thinwire.progress import Report
from thinwire.stages import Ends, bridge_folders, bridge_stage
from thinwire.train import train

CONFIG = BridgeConfig(ridge_tokens=2_000, bridge_steps=6, joint_steps=6, batch_size=4, validation_tokens=200)


class LinearlyRelated(Pair):
    """Two models whose streams at the only junction are related by a known map, with a constant added."""

    def own(self, bridge: Bridge, tokens: torch.Tensor) -> tuple[OwnPass, OwnPass]:
        generator = torch.Generator().manual_seed(int(tokens.sum()))
        dense = 3 * torch.randn(*tokens.shape, 6, generator=generator) + 2
        sparse = dense @ MAP.T + torch.arange(4.0)
        return OwnPass([dense], tokens), OwnPass([sparse], tokens)


MAP = torch.randn(4, 6, generator=torch.Generator().manual_seed(7))


def test_ridge_recovers_a_linear_map() -> None:
    pair = LinearlyRelated(SimpleNamespace(centred=False), None, 1, 1)  # pyright: ignore
    bridge = Bridge((Junction(0, 0),), 6, 4).requires_grad_(False)
    fit_ridge(pair, bridge, (torch.full((4, 50), step) for step in range(10)), 1e-9)
    dense, sparse = (own.streams[0] for own in pair.own(bridge, torch.full((2, 5), 99)))
    assert torch.allclose(bridge.encode(0, dense), sparse, atol=1e-3)
    # the dense stream has two dimensions that the sparse one lacks: the best guess, not the stream
    assert torch.allclose(bridge.decode(0, sparse) @ MAP.T, sparse - torch.arange(4.0), atol=1e-2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_tokens: Tokens) -> tuple[Path, Path]:
    """A dense and a sparse model, trained a little."""
    folder = tmp_path_factory.mktemp("bridge")
    train(tiny_run(density=1.0, floor=0), tiny_tokens, folder / "dense")
    train(tiny_run(seed=1), tiny_tokens, folder / "sparse")
    return folder / "dense", folder / "sparse"


def test_stages_improve_the_crossings_and_are_reused(
    models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path
) -> None:
    ends = Ends.open(*models, tiny_tokens)
    found = bridge_stage(ends, tmp_path / "work", CONFIG)
    assert list(found) == ["ridge", "maps", "joint"]
    profiles = [stored.summary.profile for stored in found.values()]
    worst = [sum(profile.to_sparse + profile.to_dense) for profile in profiles]
    assert worst[0] > worst[1] > worst[2]
    assert profiles[0].sparse == pytest.approx(profiles[1].sparse, rel=1e-6)
    assert profiles[2].sparse != pytest.approx(profiles[1].sparse, rel=1e-4)
    # the nonzeros of the bridged model lie where those of the sparse model do
    before, after = load(models[1]), load(tmp_path / "work" / "runs" / "joint")
    for name, weight in before.blocks.named_parameters():
        if "norm" not in name and not name.endswith("sink"):
            assert not after.blocks.get_parameter(name)[weight == 0].any(), name
    joint = artifact.open_artifact(tmp_path / "work" / "runs" / "joint", "model")
    assert found["joint"].artifact.meta.parents["sparse"] == joint.id
    assert found["maps"].artifact.meta.parents["sparse"] == ends.sparse.id
    again = bridge_stage(ends, tmp_path / "work", CONFIG)
    assert [stored.artifact.id for stored in again.values()] == [stored.artifact.id for stored in found.values()]
    stored = load_bridge(tmp_path / "work" / "maps")
    both = zip(stored.bridge.parameters(), found["maps"].bridge.parameters(), strict=True)
    assert all(torch.equal(read, made) for read, made in both)


def test_a_later_choice_remakes_no_stage_before(
    models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a version of the package with other defaults."""
    ends = Ends.open(*models, tiny_tokens)
    few = CONFIG.replace(bridge_steps=2, joint_steps=0)
    first = bridge_stage(ends, tmp_path / "work", few)
    stamps = [(tmp_path / "work" / stage / "meta.json").stat().st_mtime_ns for stage in first]
    monkeypatch.setattr(bridge_folders, "DEFAULTS", BridgeConfig(joint_steps=77, model_rate=0.3))
    bridge_stage(ends, tmp_path / "work", few.replace(joint_steps=2, model_rate=0.001))
    assert stamps == [(tmp_path / "work" / stage / "meta.json").stat().st_mtime_ns for stage in first]


def test_a_fit_stopped_in_any_stage_continues_to_the_same_bridges(
    models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path
) -> None:
    ends = Ends.open(*models, tiny_tokens)
    whole = [stored.artifact.id for stored in bridge_stage(ends, tmp_path / "whole", CONFIG).values()]
    for stopped in ("ridge", "maps", "joint"):

        def stop_there(stage: str, stopped: str = stopped) -> Report:
            def report(done: int, total: int, status: str) -> None:
                if stage == stopped and done == 3:
                    raise KeyboardInterrupt

            return report

        with pytest.raises(KeyboardInterrupt):
            bridge_stage(ends, tmp_path / stopped, CONFIG, stop_there)
        continued = bridge_stage(ends, tmp_path / stopped, CONFIG)
        assert [stored.artifact.id for stored in continued.values()] == whole, stopped


def test_what_does_not_fit_is_refused(models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 residual points and the sparse one 3"):
        matching_points(5, 3)
    with pytest.raises(UserError, match=r"3 residual points and the sparse one 9 \(2 and 4 layers\)"):
        matching_points(3, 9, per_layer=1)
    with pytest.raises(UserError, match="n_active is 17"):
        Bridge(matching_points(1, 1), 16, 16, n_active=17)
    with pytest.raises(UserError, match="different tokenizers"):
        Ends.open("python-2x256-dense", models[1], tiny_tokens)
    with pytest.raises(UserError, match="not a bridge artefact"):
        load_bridge(tmp_path)
    ends = Ends.open(*models, tiny_tokens)
    bridge_stage(ends, tmp_path / "work", CONFIG.replace(bridge_steps=0, joint_steps=0))
    weights = tmp_path / "work" / "ridge" / "bridge.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="truncated or altered"):
        load_bridge(tmp_path / "work" / "ridge")
