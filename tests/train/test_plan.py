"""The plan of a run against the run itself: the real model's parameters, saved tensors, operations and calls."""

import math
from collections import Counter

import pytest
import torch
from cases import case
from plan_pieces import on_meta, run_of
from tiny import SHAPE, tiny_run
from torch.utils.flop_counter import FlopCounterMode

from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.abstopk import AbsTopK
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import LanguageObjective, TrainConfig, l0
from thinwire.train.plan import memory as plan_memory
from thinwire.train.plan import work
from thinwire.train.plan.inventory import check_floor, final_nonzeros, group_sizes, parameters
from thinwire.train.plan.work import Load

SHAPES: dict[str, dict] = {
    "plain": {},
    "added": {"positions": "added", "bigram": False, "active_residual": True},
    "concatenated": {"positions": "concatenated", "sink": True, "biases": False, "bigram": False, "n_layers": 3},
    "dense": {"active_fraction": 1.0, "biases": False},
    "dense relu": {"active_fraction": 1.0, "activation": "relu", "sink": True},
    "some sites": {"active_sites": ("attn.k", "mlp.act_in"), "activation": "relu", "positions": "concatenated"},
}
over_shapes = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


@over_shapes
def test_parameters_are_the_models(shape: dict) -> None:
    config = SHAPE.replace(**shape)
    model = on_meta(config)
    found = parameters(config)
    assert {p.name: p.shape for p in found} == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert len(found) == len(list(model.parameters()))
    assert {p.name for p in found if p.sparse} == {name for name, _ in sparse_parameters(model)}
    dims = {"rows": 1, "columns": 0, None: None}
    assert {p.name: dims[p.floor] for p in found} == {p.name: floor_dim(p.name) for p in found}


RULES: list[dict] = [
    {},
    {"density": 1.0},
    {"sparse_biases": False},
    {"density_rule": "released"},
    {"density_rule": "released", "embedding_anneal": "late", "sparse_biases": False},
    {"density_rule": "released", "embedding_anneal": "late", "density": 1.0},
    {"anneal": "none", "density": 1 / 300},
    {"anneal": "exponential", "anneal_stop": 1.0},
]


def test_nonzeros_are_the_last_budget() -> None:
    for width in [16, 512]:
        for rule in RULES:
            with case(rule, width):
                config = tiny_run(floor=0, model=SHAPE.replace(d_model=width, vocab_size=300), **rule)
                budget = l0.budget(on_meta(config.model), config.steps, config)
                assert {p.name: final_nonzeros(p, config) for p in parameters(config.model) if p.sparse} == budget
                groups = group_sizes(config)
                assert sum(group.entries for group in groups) == sum(
                    p.numel() for p in on_meta(config.model).parameters()
                )
                sparse = [group for group in groups if group.group not in ("bigram table", "other dense")]
                assert sum(group.nonzeros for group in sparse) == sum(budget.values())


def test_floors_are_refused_as_training_refuses_them() -> None:
    for floor in [0, 1, 2, 3, 4, 40]:
        with case(floor):
            config = tiny_run(floor=floor, density=1 / 8)
            raised = []
            for check, arguments in ((check_floor, (config,)), (l0.check_floor, (on_meta(config.model), config))):
                try:
                    check(*arguments)
                    raised.append(None)
                except UserError as error:
                    raised.append(str(error))
            assert raised[0] == raised[1]


def saved_bytes(config: TrainConfig) -> int:
    """Bytes of all tensors but parameters that autograd saves for the backward pass of one batch."""
    objective = LanguageObjective(Transformer(config.model), config)
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective(torch.randint(config.model.vocab_size, (config.batch_size, config.model.context + 1)))
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@over_shapes
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_activations_are_what_autograd_saves(shape: dict, precision: str) -> None:
    config = run_of(shape, precision=precision, density=1.0)
    load = Load.of(config, precision)  # pyright: ignore
    held = plan_memory.memory(load, "cpu", 0)
    log_probabilities = 4 * load.rows * config.model.vocab_size
    scalar = 4  # the number of targets, which the mean loss saves
    assert saved_bytes(config) == held.activations + held.copies + log_probabilities + scalar


def test_recomputing_saves_the_streams_and_one_sublayer() -> None:
    config = run_of({}, precision="fp32", density=1.0, recompute=True)
    load = Load.of(config, "fp32")
    stream = 4 * load.rows * config.model.d_model
    between = saved_bytes(config) - 4 - 4 * load.rows * config.model.vocab_size
    kept = plan_memory.activations(load, "cpu")
    layer = plan_memory.saved_by_recomputing(load, "cpu")
    assert between < kept < between + layer
    assert kept + layer == plan_memory.activations(Load.of(config.replace(recompute=False), "fp32"), "cpu")
    deeper = config.replace(model=config.model.replace(n_layers=12))
    assert plan_memory.activations(Load.of(deeper, "fp32"), "cpu") == kept + 20 * stream


def test_states_are_spread_or_not() -> None:
    config = run_of({}, density=1.0)
    entries = sum(p.numel() for p in on_meta(config.model).parameters())
    one, ddp, fsdp = (
        plan_memory.memory(Load.of(config, "bf16", ranks, parallel), "cpu", 7)  # pyright: ignore
        for ranks, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp"))
    )
    assert one.weights == one.gradients == one.moments // 2 == ddp.weights == 4 * entries
    assert 0 <= 2 * fsdp.weights - one.weights < 4 * 2 * len(parameters(config.model))
    assert ddp.activations == fsdp.activations == one.activations // 2
    counted = sum((one.weights, one.gradients, one.moments, one.copies, one.activations, one.logits))
    assert one.overhead == round(0.3 * counted)
    assert one.total == counted + one.overhead + 7
    assert one.patterns == 2 * 2 * 4 * 4 * 16 * 16, "bf16, layers, batch, heads, context²"
    assert plan_memory.memory(Load.of(config, "bf16"), "cuda", 0).patterns == 0


@over_shapes
@pytest.mark.parametrize("recompute", [False, True])
def test_operations_are_those_that_run(shape: dict, recompute: bool) -> None:
    config = run_of(shape, precision="fp32", density=1.0, recompute=recompute)
    objective = LanguageObjective(Transformer(config.model), config)
    batch = torch.randint(50, (config.batch_size, config.model.context + 1))
    with FlopCounterMode(display=False) as counter:
        objective(batch).total.backward()
    assert work.step_flops(Load.of(config, "fp32")) == counter.get_total_flops()


@over_shapes
def test_calls_are_those_of_the_forward_pass(shape: dict) -> None:
    config = run_of(shape, precision="fp32", density=1.0)
    model = Transformer(config.model)
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        rows = inputs[0].shape[:-1].numel()
        if isinstance(module, torch.nn.Linear):
            seen["linear.fp32", (rows, module.in_features, module.out_features)] += 1
        elif isinstance(module, AbsTopK) and module.k < module.width:
            seen["abstopk.fp32", (rows, module.width)] += 1
        elif isinstance(module, torch.nn.RMSNorm) and rows > config.model.context:
            seen["norm.fp32", (rows, *module.normalized_shape)] += 1
        elif isinstance(module, torch.nn.Embedding):
            seen["embedding", (inputs[0].numel(), *module.weight.shape)] += 1

    for module in model.modules():
        module.register_forward_hook(note)
    model(torch.randint(50, (config.batch_size, config.model.context)))
    load = Load.of(config, "fp32")
    planned: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for call in work.calls(load):
        if call.forward and call.kernel.partition(".")[0] in ("linear", "abstopk", "norm", "embedding"):
            planned[call.kernel, call.size] += call.times
    assert planned == seen
    selected = sum(math.prod(size) * times for (name, size), times in seen.items() if name.startswith("abstopk"))
    assert work.selected_entries(load) == selected


def test_every_forward_kernel_has_its_backward_pass() -> None:
    for recompute in (False, True):
        load = Load.of(run_of({"active_residual": True, "positions": "added"}, recompute=recompute), "bf16")
        calls = work.calls(load)
        forward: Counter[tuple] = Counter()
        for call in calls:
            if call.forward:
                name, dot, precision = call.kernel.partition(".")
                forward[f"{name}_backward{dot}{precision}", call.size] += call.times
        backward: Counter[tuple] = Counter()
        for call in calls:
            if "_backward" in call.kernel:
                backward[call.kernel, call.size] += call.times
        assert forward == backward
        again = [c for c in calls if not c.forward and c.kernel.startswith(("linear.", "attention.", "gelu."))]
        assert sum(call.times for call in again) == (12 + 2 + 2 if recompute else 0), "matrices, attentions, GELUs"


def test_updates_and_projections_are_counted_whole() -> None:
    config = run_of({}, sparse_biases=False, floor=1)
    load = Load.of(config, "fp32")
    model = on_meta(config.model)
    sizes = {call.kernel: call.size for call in work.update(load)}
    assert sizes["optimizer"] == sizes["gradient"] == (sum(p.numel() for p in model.parameters()),)
    called = Counter((call.kernel, *call.size) for call in work.projection(load))
    expected: Counter[tuple] = Counter()
    for name, parameter in sparse_parameters(model):
        if not name.endswith(".bias"):
            kind = {1: "projection_rows", 0: "projection_columns", None: "projection"}[floor_dim(name)]
            expected[kind, parameter.numel()] += 1
    assert called == expected
    assert {call.kernel for call in work.projection(Load.of(config.replace(floor=0), "fp32"))} == {"projection"}
    assert not list(work.projection(Load.of(config.replace(density=1.0, floor=0), "fp32")))
