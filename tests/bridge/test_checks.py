"""The checks through a bridge: a planted circuit matters to a model bridged to itself, other channels do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import planted
import pytest
from bridge_pieces import identity_bridge

from thinwire import artifact
from thinwire.bridge.checks import BridgeChecks
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.reads import Decoder
from thinwire.bridge.targets import OwnTarget
from thinwire.circuit import Circuit
from thinwire.prune import PruneConfig
from thinwire.sites import Node
from thinwire.verify import VerifyConfig, verify
from thinwire.verify.checks import CHECKS, all_checks
from thinwire.verify.claims import weakest
from thinwire.verify.verdict import finished_verdict

CONFIG = VerifyConfig(pairs=32, random_circuits=8)


def checks_of(found_in: planted.Planted) -> BridgeChecks:
    model = found_in.model
    bridge = identity_bridge(2 * model.config.n_layers + 1, model.config.d_model)
    target = OwnTarget(model)
    return BridgeChecks(target, Decoder(bridge, model, target))


@pytest.mark.parametrize("plant", [planted.mlp, planted.attention, planted.chain])
def test_a_planted_circuit_passes_and_another_one_fails(
    plant: Callable[[], planted.Planted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {one.name: one for one in all_checks() if one.name in ("sufficiency", "unpruned")}
    monkeypatch.setattr(CHECKS, "_entries", kept)
    found_in = plant()
    circuit = Circuit(found_in.planted.name, found_in.model.config, found_in.nodes, found_in.means)
    channels = {node.index for node in found_in.nodes if node.site.kind.endswith(("act_in", "resid_delta"))}
    unused = next(i for i in range(found_in.model.config.d_model) if i not in channels)
    other = replace(circuit, nodes=(Node.parse(f"0.mlp.act_in:{unused}", circuit.shape),))
    further, own = checks_of(found_in).all(), found_in.task
    verdicts = [verify(found_in.model, one, None, CONFIG, own=own, further=further) for one in (circuit, other)]  # pyright: ignore
    for verdict, status in zip(verdicts, ("pass", "fail"), strict=True):
        assert verdict["transfer.loss"].status == status
        assert verdict["steering.ratio"].status == status
        for name in ("transfer.loss", "transfer.accuracy", "transfer.intact loss", "steering.ratio"):
            found = verdict[name]
            assert found.interval is not None
            assert found.interval.low - 1e-6 <= found.value <= found.interval.high + 1e-6
            assert (found.n, found.split) == (32, "heldout")
    curve = verdicts[0]["steering.ratio"].curve
    assert curve is not None
    assert curve.y[curve.x.index(0.0)] == pytest.approx(1, abs=1e-4)
    assert list(curve.y[:4]) == sorted(curve.y[:4]), "the more, the likelier"
    assert {"transfer", "steering"}.isdisjoint(one.check for one in weakest(verdicts[0]) if one.status != "pass")
    assert {"transfer", "steering"} <= {one.check for one in weakest(verdicts[1], 99) if one.status == "fail"}
    assert verdicts[0]["transfer.intact loss"].value == pytest.approx(verdicts[0]["unpruned.loss"].value, abs=1e-5)
    # the verdict names its bridge, and is reused without one, but not for another
    (tmp_path / "circuit").mkdir()
    parent = artifact.finish(tmp_path / "circuit", "circuit", PruneConfig(), {}, [])
    bridges = []
    for name, seed in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        bridges.append(artifact.finish(tmp_path / name, "bridge", BridgeConfig(seed=seed), {}, []))
    verdicts[0].save(tmp_path / "verdict", CONFIG, {"circuit": parent, "bridge": bridges[0]})
    stored = replace(circuit, artifact=parent)
    assert finished_verdict(stored, tmp_path / "verdict", CONFIG) == verdicts[0]
    assert finished_verdict(stored, tmp_path / "verdict", CONFIG, {"bridge": bridges[0]}) == verdicts[0]
    assert finished_verdict(stored, tmp_path / "verdict", CONFIG, {"bridge": bridges[1]}) is None
