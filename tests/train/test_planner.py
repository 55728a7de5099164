"""The planner: times summed over kernels and shared by ranks, advice that holds, what is left out, and large runs."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from cases import case
from plan_pieces import flat_device, on_meta, run_of

from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.train import PRESETS
from thinwire.train.plan import memory as plan_memory
from thinwire.train.plan import plan, planner, work
from thinwire.train.plan.work import Load
from thinwire.train.rates import FAMILIES, Sample


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


def test_advice_holds() -> None:
    for share in [0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1]:
        for ranks in [1, 4]:
            with case(ranks, share):
                config = run_of({"n_layers": 8}, precision="fp32", batch_size=32)
                load = Load.of(config, "fp32", ranks)
                room = int(share * plan_memory.memory(load, "cpu", 0).total)
                made = plan(config, "", flat_device(memory_bytes=room), ranks)
                assert not made.fits
                assert made.advice is not None
                changed = advised(load, made.advice)
                assert changed
                assert all(fitting(each, room) for each in changed), made.advice
                if "--batch-size" not in made.advice or "about" in made.advice:
                    continue
                for each in changed:  # the batch is the largest that fits
                    bigger = each.config.replace(batch_size=each.config.batch_size + each.ranks)
                    larger = Load.of(bigger, "fp32", each.ranks, each.parallel)
                    assert each.config.batch_size == config.batch_size or not fitting(larger, room)


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
    with pytest.raises(UserError, match="The sparsifier hardconcrete keeps no floor"):
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


def test_presets_can_be_planned() -> None:
    for preset in list(PRESETS):
        with case(preset):
            config = PRESETS[preset]()
            made = plan(config, "", flat_device(memory_bytes=10**15))
            assert made.parameters == sum(p.numel() for p in on_meta(config.model).parameters())
            assert set(made.seconds) <= set(work.Part.__args__)
            assert planner.kernel_seconds([], flat_device()) == {}
