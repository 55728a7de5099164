"""The plan of a run against the run itself: the real model's parameters, saved tensors, operations and calls."""

import json
import math
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from tiny import SHAPE, tiny_run
from torch.utils.flop_counter import FlopCounterMode

from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.model.abstopk import AbsTopK
from thinwire.model.weights import floor_dim, sparse_parameters
from thinwire.train import PRESETS, TrainConfig, l0
from thinwire.train.objective import Objective
from thinwire.train.plan import memory as plan_memory
from thinwire.train.plan import plan, planner, work
from thinwire.train.plan.inventory import check_floor, final_nonzeros, group_sizes, parameters
from thinwire.train.plan.work import Load
from thinwire.train.rates import FAMILIES, Device, Sample

SHAPES: dict[str, dict] = {
    "plain": {},
    "sink": {"sink": True},
    "concatenated": {"positions": "concatenated"},
    "added": {"positions": "added"},
    "no bigram": {"bigram": False},
    "no biases": {"biases": False},
    "relu": {"activation": "relu"},
    "residual": {"active_residual": True},
    "dense": {"active_fraction": 1.0},
    "dense relu": {"active_fraction": 1.0, "activation": "relu"},
    "some sites": {"active_sites": ("attn.k", "mlp.act_in"), "sink": True, "positions": "concatenated"},
    "all of it": {"sink": True, "positions": "concatenated", "bigram": False, "biases": False, "n_layers": 3},
}
over_shapes = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def run_of(shape: dict, **changes: object) -> TrainConfig:
    return tiny_run(model=SHAPE.replace(vocab_size=50, **shape), **changes)


def on_meta(config: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


def flat_device(**changes: object) -> Device:
    """A device on which a unit of work of every kernel takes a second."""
    once = (Sample(size=(1, 1, 1, 1), rate=1.0),)
    names = [name + precision for name in FAMILIES for precision in ("", ".bf16", ".fp32")]
    kernels = {name: tuple(Sample(size=s.size[: n_numbers(name)], rate=1.0) for s in once) for name in names}
    made = Device(
        kind="cpu",
        measured=True,
        date="",
        machine="",
        source="",
        memory_bytes=10**9,
        native_bf16=True,
        kernels=kernels,
    )
    return made.replace(**changes)


def n_numbers(kernel: str) -> int:
    return len(FAMILIES[kernel.partition(".")[0]].size.split(","))


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("width", [16, 512])
def test_nonzeros_are_the_last_budget(rule: dict, width: int) -> None:
    config = tiny_run(floor=0, model=SHAPE.replace(d_model=width, vocab_size=300), **rule)
    budget = l0.budget(on_meta(config.model), config.steps, config)
    assert {p.name: final_nonzeros(p, config) for p in parameters(config.model) if p.sparse} == budget
    groups = group_sizes(config)
    assert sum(group.entries for group in groups) == sum(p.numel() for p in on_meta(config.model).parameters())
    sparse = [group for group in groups if group.group not in ("bigram table", "other dense")]
    assert sum(group.nonzeros for group in sparse) == sum(budget.values())


@pytest.mark.parametrize("floor", [0, 1, 2, 3, 4, 40])
def test_floors_are_refused_as_training_refuses_them(floor: int) -> None:
    config = tiny_run(floor=floor, density=1 / 8)
    said = []
    for refuse in (lambda: check_floor(config), lambda: l0.check_floor(on_meta(config.model), config)):
        try:
            refuse()
            said.append(None)
        except UserError as error:
            said.append(str(error))
    assert said[0] == said[1]


def saved_bytes(config: TrainConfig) -> int:
    """Bytes of all tensors but parameters that autograd saves for the backward pass of one batch."""
    objective = Objective(Transformer(config.model), config)
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
    objective = Objective(Transformer(config.model), config)
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


def test_time_is_the_sum_over_kernels() -> None:
    device = flat_device()
    config = run_of({}, precision="bf16")
    made = plan(config, "flat", device)
    calls = work.calls(Load.of(config, "bf16"))
    by_hand = sum(call.times * FAMILIES[call.kernel.partition(".")[0]].amount(*call.size) for call in calls)
    assert made.step_seconds == pytest.approx(by_hand)
    tokens = config.batch_size * config.model.context
    assert made.tokens_per_second == pytest.approx(tokens / by_hand)
    assert made.seconds["matrix products"] == pytest.approx(
        3 * 2 * tokens * sum(p.entries for p in work.matrices(Load.of(config, "bf16")))
    )
    fast = dict(device.kernels)
    fast["optimizer"] = (Sample(size=(1,), rate=4.0),)
    faster = plan(config, "flat", device.replace(kernels=fast))
    assert made.step_seconds - faster.step_seconds == pytest.approx(0.75 * made.parameters)
    forward = sum(
        call.times * FAMILIES[call.kernel.partition(".")[0]].amount(*call.size) for call in calls if call.forward
    )
    validation = math.ceil(20 / 8) * 2 * 256 * forward / tokens
    assert made.hours * 3600 == pytest.approx(20 * by_hand + validation)
    assert made.flops_per_token * tokens == made.flops_per_step


def test_precision_is_the_configs_or_the_devices() -> None:
    config = run_of({}, precision="auto")
    assert plan(config, "", flat_device()).precision == "bf16"
    assert plan(config, "", flat_device(native_bf16=False)).precision == "fp32"
    assert plan(config.replace(precision="fp32"), "", flat_device()).precision == "fp32"
    assert plan(config.replace(precision="bf16"), "", flat_device(native_bf16=False)).precision == "bf16"


def test_ranks_share_the_work() -> None:
    config = run_of({}, precision="fp32")
    one, two, spread = (
        plan(config, "", flat_device(), ranks, parallel)  # pyright: ignore
        for ranks, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp"))
    )
    assert one.all_reduce_bytes == 0
    assert "communication" not in one.seconds
    assert two.all_reduce_bytes == 4 * two.parameters == two.seconds["communication"]
    assert spread.all_reduce_bytes == pytest.approx(1.5 * two.all_reduce_bytes, rel=1e-6)
    assert two.seconds["attention"] == one.seconds["attention"] / 2
    assert two.seconds["update"] == one.seconds["update"] == pytest.approx(2 * spread.seconds["update"], rel=0.01)
    assert two.projection_entries == one.projection_entries == pytest.approx(2 * spread.projection_entries, rel=0.01)
    assert two.flops_per_step == one.flops_per_step
    assert two.abstopk_entries == one.abstopk_entries
    for ranks, parallel, said in (
        (3, "ddp", "A batch of 4 sequences cannot be shared equally by 3 ranks"),
        (8, "ddp", "cannot be shared equally by 8"),
        (0, "ddp", "at least one rank, not 0"),
        (1, "fsdp", "give --ranks 2 or more"),
    ):
        with pytest.raises(UserError, match=said):
            plan(config, "", flat_device(), ranks, parallel)  # pyright: ignore


def fitting(load: Load, memory_bytes: int) -> bool:
    return plan_memory.memory(load, "cpu", 0).total <= memory_bytes


def advised(load: Load, advice: str) -> list[Load]:
    """The loads after each of the changes that an advice gives as alternatives."""
    found = []
    for option in re.split(r" or ", re.split(r" makes| together|; ", advice)[0]):
        config, ranks, parallel = load.config, load.ranks, load.parallel
        if numbers := re.search(r"--batch-size (\d+)", option):
            config = config.replace(batch_size=int(numbers[1]))
        if numbers := re.search(r"--ranks (\d+)", option):
            ranks = int(numbers[1])
        if "--recompute" in option:
            config = config.replace(recompute=True)
        if "--parallel fsdp" in option:
            parallel = "fsdp"
        found.append(Load.of(config, load.precision, ranks, parallel))
    return found


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("share", [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1])
def test_advice_holds(ranks: int, share: float) -> None:
    config = run_of({"n_layers": 8}, precision="fp32", batch_size=32)
    load = Load.of(config, "fp32", ranks)
    room = int(share * plan_memory.memory(load, "cpu", 0).total)
    made = plan(config, "", flat_device(memory_bytes=room), ranks)
    assert not made.fits
    assert made.advice is not None
    changed = advised(load, made.advice)
    assert changed
    assert all(fitting(each, room) for each in changed), made.advice
    for each in changed:
        bigger = each.config.replace(batch_size=each.config.batch_size + each.ranks)
        if "--batch-size" in made.advice and each.config.batch_size < config.batch_size and "about" not in made.advice:
            assert not fitting(Load.of(bigger, "fp32", each.ranks, each.parallel), room), "the largest batch that fits"


def test_advice_when_nothing_helps_and_none_when_it_fits() -> None:
    config = run_of({}, precision="bf16")
    hopeless = plan(config, "", flat_device(memory_bytes=1000)).advice
    assert hopeless is not None
    assert "choose a smaller model" in hopeless
    assert plan(config, "", flat_device()).advice is None


def test_what_is_left_out_is_said() -> None:
    config = run_of({}, floor=0)
    assert plan(config, "", flat_device()).notes == ()
    assumed = plan(config, "", flat_device(measured=False, source="a data sheet")).notes
    assert assumed == ("Times are assumed, not measured: a data sheet",)
    with pytest.raises(UserError, match="hardconcrete way to sparsity keeps no floor"):
        plan(config.replace(sparsity="hardconcrete", floor=1), "", flat_device())
    other = plan(config.replace(sparsity="hardconcrete"), "", flat_device())
    assert "What hardconcrete adds" in other.notes[0]
    assert other.projection_entries == 0


GPT3 = {
    "model": {"n_layers": 96, "d_model": 12288, "d_head": 128, "context": 2048, "vocab_size": 50257, "bigram": False},
    "batch_size": 1536,
    "floor": 2,
    "density": 0.001,
}
PROGRAM = """
import sys, time
from thinwire.train.config import TrainConfig
from thinwire.train.plan import plan
from thinwire.train.rates import find_device
began = time.process_time()
made = plan(TrainConfig.parse(sys.argv[1], "argument"), *find_device("h200"), ranks=512)
print(time.process_time() - began, made.parameters, made.fits, "torch" in sys.modules, "numpy" in sys.modules)
"""


def test_a_large_plan_is_quick_and_needs_no_torch() -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(GPT3)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, entries, *rest = done.stdout.split()
    assert rest == ["False", "False", "False"]
    assert float(seconds) < 0.5
    with torch.device("meta"):
        layer = Transformer(ModelConfig.model_validate(GPT3["model"] | {"n_layers": 1}))
    in_layer = sum(p.numel() for p in layer.blocks.parameters())
    assert int(entries) == sum(p.numel() for p in layer.parameters()) + 95 * in_layer


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_can_be_planned(preset: str) -> None:
    config = PRESETS[preset]()
    made = plan(config, "", flat_device(memory_bytes=10**15))
    assert made.parameters == sum(p.numel() for p in on_meta(config.model).parameters())
    assert set(made.seconds) <= set(work.Part.__args__)
    assert planner.kernel_seconds([], flat_device()) == {}
