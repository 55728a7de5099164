"""Configs, registries and the vocabulary of places."""

from pathlib import Path

import pytest
import torch
from cases import case
from pydantic import ValidationError
from tiny import SHAPE, tiny_model

from thinwire.errors import UserError
from thinwire.files import repeated_key
from thinwire.model import ModelConfig
from thinwire.model.taps import record
from thinwire.prune import PruneConfig
from thinwire.registry import Registry
from thinwire.sites import KINDS, Node, ResidPoint, Site, all_sites, n_nodes, resid_points
from thinwire.train import TrainConfig
from thinwire.verify import VerifyConfig

CONFIGS = (ModelConfig, TrainConfig, PruneConfig, VerifyConfig)


def test_config_round_trip_and_strictness(tmp_path: Path) -> None:
    for config in CONFIGS:
        made = config()
        (tmp_path / "c.json").write_text(made.to_json())
        assert config.load(tmp_path / "c.json") == made
        with pytest.raises(ValidationError):
            made.seed = 3  # pyright: ignore
        with pytest.raises(UserError, match="unknown key 'stepz'"):
            made.replace(stepz=3)
        with pytest.raises(UserError, match=f"not a valid {config.__name__}: unknown key 'stepz'"):
            config.parse('{"stepz": 3}', "c.json")
        assert all(field.description for field in config.model_fields.values()), "every field has help"


def test_bad_config_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for text in ("", "{", "[]", "3", '{"steps": 0}', '{"steps": "many"}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"c.json is not a valid TrainConfig: .*\.$") as caught:
            TrainConfig.load(path)
        assert "\n" not in str(caught.value)


def test_config_files_are_read_strictly(tmp_path: Path) -> None:
    """No conversions, and no key twice, of which a reader would drop one."""
    path = tmp_path / "config.json"
    cases = {
        '{"steps": true}': "steps: input should be a valid integer",
        '{"steps": "4"}': "steps: input should be a valid integer",
        '{"learning_rate": "0.1"}': "learning_rate: input should be a valid number",
        '{"steps": 4, "steps": 5}': r"gives the key 'steps' twice; keep one of them\.$",
        '{"model": {"n_layers": 2, "n_layers": 3}}': "gives the key 'n_layers' twice",
    }
    for text, said in cases.items():
        with case(text):
            path.write_text(text)
            with pytest.raises(UserError, match=said):
                TrainConfig.load(path)
    path.write_text('{"learning_rate": 1}')
    assert TrainConfig.load(path).learning_rate == 1.0
    assert repeated_key('[{"a": 1}, {"a": 1}]') is None


def test_unreadable_config_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "latin"):
        with pytest.raises(UserError, match=r"cannot be read .*; give the path of a JSON config"):
            TrainConfig.load(path)


def test_nested_places_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown key 'model\.d_modle'"):
        TrainConfig.parse('{"model": {"d_modle": 3}}', "c.json")
    with pytest.raises(UserError, match=r"steps: input should be greater than or equal to 1"):
        TrainConfig().replace(steps=0)


MISFITS: list[tuple[dict[str, object], str]] = [
    ({"d_model": 20, "d_head": 16}, "d_model 20 is not a multiple of d_head 16"),
    ({"active_sites": ("attn.q", "attn.q")}, "names a kind of site twice"),
    ({"active_sites": ("attn.z",)}, "active_sites"),
    ({"mlp_ratio": 0.001, "d_model": 16}, "leaves no neuron"),
    ({"positions": "rotary"}, "positions"),
    ({"active_fraction": 0}, "active_fraction"),
]


def test_shapes_that_do_not_fit_are_refused() -> None:
    for changes, match in MISFITS:
        with pytest.raises(UserError, match=match):
            ModelConfig().replace(**changes)


def test_registry_names_what_is_near() -> None:
    registry: Registry[int] = Registry("soup")
    registry.register("tomato")(1)
    registry.register("potato")(2)
    assert list(registry) == ["tomato", "potato"]
    assert len(registry) == 2
    assert registry["potato"] == 2
    with pytest.raises(UserError, match="no soup called 'tomatoe'; did you mean tomato"):
        registry["tomatoe"]
    with pytest.raises(UserError, match="there are tomato, potato"):
        registry["xyz"]
    with pytest.raises(AssertionError, match="soup tomato is registered twice"):
        registry.register("tomato")(3)


@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_sites_are_what_the_forward_pass_meets(positions: str) -> None:
    model = tiny_model(positions=positions)
    seen = record()
    model(torch.zeros(1, 2, dtype=torch.int64), tap=seen)
    assert list(seen.values) == list(all_sites(model.config)) == sorted(seen.values)
    assert n_nodes(model.config) == sum(x.shape[-1] for x in seen.values.values())
    assert [str(point) for point in resid_points(model.config)] == ["h_0", "h_1", "h_2", "h_3", "h_4"]
    assert len(list(resid_points(model.config))) == len(model.sublayers) + 1


def test_widths_by_hand() -> None:
    shape = ModelConfig(d_model=32, d_head=8, mlp_ratio=3, positions="concatenated", d_pos=5)
    widths = {kind: Site.of(0, kind).width(shape) for kind in KINDS}
    assert widths == {
        "attn.act_in": 37,
        "attn.q": 32,
        "attn.k": 32,
        "attn.v": 32,
        "attn.resid_delta": 32,
        "mlp.act_in": 37,
        "mlp.post_act": 96,
        "mlp.resid_delta": 32,
    }
    assert [Site.of(3, kind).sublayer for kind in KINDS] == [6] * 5 + [7] * 3


def test_names_by_hand() -> None:
    shape = ModelConfig(n_layers=11, d_model=2048, d_head=16)
    assert Node(Site.of(10, "attn.q"), 82 * 16 + 1).name(shape) == "10.attn.q:82.1"
    assert Node(Site.of(0, "mlp.post_act"), 2790).name(shape) == "0.mlp.post_act:2790"
    assert str(Site.of(3, "attn.q")) == "3.attn.q"
    assert str(ResidPoint(4)) == "h_4"


def test_every_node_of_a_model_has_a_name_that_reads_back() -> None:
    shape = SHAPE.replace(positions="concatenated")
    nodes = [Node(site, index) for site in all_sites(shape) for index in range(site.width(shape))]
    names = [node.name(shape) for node in nodes]
    assert [Node.parse(name, shape) for name in names] == nodes == sorted(nodes)
    assert len(set(names)) == len(names) == n_nodes(shape)


NO_NODES: list[str] = [
    "0.attn.q",
    "0.attn.q:3",
    "0.attn.q:4.0",
    "0.attn.q:0.4",
    "0.attn.q:-1.0",
    "2.attn.q:0.0",
    "0.mlp.post_act:32",
    "0.mlp.post_act:1.1",
    "0.mlp.post_act:x",
    "0.mlp.post_act:",
    "0.mlp.post_act: 1",
    "-1.attn.q:0.0",
    "0.attn.z:0",
    "",
    ":",
    "٣.attn.q:0.0",
]


def test_names_outside_the_model_are_refused() -> None:
    for text in NO_NODES:
        with pytest.raises(UserError, match=r"is not a (node|site); write|lies outside the model"):
            Node.parse(text, SHAPE)
