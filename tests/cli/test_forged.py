"""Artefacts whose files are hostile but fit their hashes: refused in one sentence, and nothing outside is touched."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cases import case
from cli_workspace import PRUNE, TASK, TRAIN, VERIFY, Thinwire, sign, stamps
from numpy.lib.format import write_array_header_1_0
from safetensors.torch import load_file, save_file

HUGE = 10**30
DEEP = "[" * 50_000 + "]" * 50_000


Edit = Callable[[dict], dict] | str
"""A change of the contents of a JSON file, or the text that replaces it."""


def at(*path: str | int, value: object) -> Callable[[dict], dict]:
    """An edit that sets the value at a path of keys."""

    def edit(stored: dict) -> dict:
        inner = stored
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return stored

    return edit


def edited(text: str, change: Edit) -> str:
    """The text of a JSON file after an edit, or the text that replaces it."""
    return change if isinstance(change, str) else json.dumps(change(json.loads(text)))


def forged(path: Path, changes: Sequence[Edit]) -> Iterator[Edit]:
    """Forge a file by each of the edits in turn, with a meta.json that fits it; afterwards it is whole again."""
    whole = path.read_text()
    for change in changes:
        path.write_text(edited(whole, change))
        sign(path.parent)
        yield change
    path.write_text(whole)
    sign(path.parent)


NOT_OBJECTS = ["", "null", "[]", "3", '"text"', "NaN", DEEP, '{"a": 1e999}', "\x00"]


CIRCUITS: list[Edit] = [
    *NOT_OBJECTS,
    at("task", value="../../../outside"),
    at("task", value=7),
    at("task", value=None),
    at("task", value="[/red]\x1b[31m\n<script>"),
    at("shape", value=[]),
    at("shape", "d_model", value=HUGE),
    at("shape", "d_model", value=2**40),
    at("shape", "n_layers", value=10**9),
    at("shape", "n_layers", value="many"),
    at("shape", "context", value=-1),
    at("nodes", value={"0.attn.q:99999.0": 1.0}),
    at("nodes", value={"9.attn.q:0.0": 1.0}),
    at("nodes", value={"0.attn.q:0.0": "strong"}),
    at("nodes", value={"0.attn.q:0.0": [1]}),
    at("nodes", value={"../../x": 1.0}),
    at("nodes", value=[1, 2]),
    at("nodes", value=HUGE),
    at("calibration", value={"scale": "x", "shift": 0}),
    at("calibration", value={"scale": float("nan"), "shift": 0}),
    at("calibration", value=[1, 2]),
    at("prompt_tokens", value=["a"]),
    at("prompt_tokens", value=[HUGE]),
    at("prompt_tokens", value=[-5]),
    at("prompt_tokens", value=[600]),
    at("prompt_tokens", value=3),
    at("removed_tokens", value=[3]),
    at("removed_tokens", value=[600]),
    at("removed_tokens", value=["a"]),
    at("frozen_norms", value="yes"),
    at("answer_tokens", value=[[1]]),
    at("answer_tokens", value=[10**6]),
    at("extra", value=1),
]


def test_forged_circuit(work: Path, thinwire: Thinwire) -> None:
    circuit = work / "circuits" / TASK
    for _ in forged(circuit / "circuit.json", CIRCUITS):
        before = stamps(work.parent)
        for words in (["info", circuit], ["view", circuit], ["view", circuit, "--text"], ["verify", circuit, *VERIFY]):
            thinwire(*words).refused()
        assert stamps(work.parent) == before


MODELS: list[Edit] = [
    *NOT_OBJECTS,
    at("d_model", value=HUGE),
    at("d_model", value=2**36),
    at("d_model", value=64),
    at("n_layers", value=10**12),
    at("n_layers", value=2),
    at("vocab_size", value=2**33),
    at("context", value=2**60),
    at("mlp_ratio", value=1e300),
    at("mlp_ratio", value=float("nan")),
    at("positions", value="concatenated"),
    at("active_sites", value=["attn.q"] * 3),
    at("active_sites", value=3),
    at("extra", value=1),
]


def test_forged_model(work: Path, thinwire: Thinwire) -> None:
    for _ in forged(work / "model/model.json", MODELS):
        before = stamps(work.parent)
        for words in (["info", work / "model"], ["tasks", "score", work / "model"]):
            thinwire(*words).refused()
        thinwire("prune", work / "model", "-t", TASK, *PRUNE, "--out", work.parent / "new").refused()
        assert stamps(work.parent) == before


def test_forged_scores(work: Path, thinwire: Thinwire) -> None:
    circuit = work / "circuits" / TASK
    edits = [*NOT_OBJECTS, at("edges", value="many"), at("heldout_loss", value=None)]
    for _ in forged(circuit / "summary.json", edits):
        for words in (["info", circuit], ["view", circuit], ["view", circuit, "--text"], ["verify", circuit, *VERIFY]):
            thinwire(*words).refused("does not hold a readable circuit")


def test_forged_summary(work: Path, thinwire: Thinwire) -> None:
    for _ in forged(work / "model/summary.json", [*NOT_OBJECTS, at("extra", value=1), at("val_loss", value="low")]):
        thinwire("info", work / "model").refused("does not hold a readable summary.json")
        thinwire("train", work / "tokens", "-o", work / "model", *TRAIN).refused("summary.json")


def test_forged_verdict(work: Path, thinwire: Thinwire) -> None:
    verdict = work / "verdicts" / TASK
    edits = [
        *NOT_OBJECTS,
        at("measurements", value=3),
        at("measurements", 0, "value", value="low"),
        at("edges", value="x"),
    ]
    for _ in forged(verdict / "verdict.json", edits):
        thinwire("info", verdict).refused("does not hold a readable verdict")
        assert thinwire("verify", work / "circuits" / TASK, *VERIFY).code == 0, "it is made again"
        assert thinwire("info", verdict).code == 0


TOKENS: list[tuple[str, Edit]] = [
    *[("stats.json", text) for text in NOT_OBJECTS],
    ("stats.json", at("parts", 0, "part", value="../../x")),
    ("stats.json", at("parts", value=[])),
    ("stats.json", at("vocab_size", value=601)),
    *[("tokenizer.json", text) for text in NOT_OBJECTS],
    ("tokenizer.json", at("model", "vocab", value={"a": HUGE})),
    ("tokenizer.json", at("model", "merges", value=["a"])),
    ("tokenizer.json", at("pre_tokenizer", value=None)),
    ("config.json", at("seed", value=HUGE)),
    ("config.json", at("folders", value=[3])),
]


def test_forged_tokens(work: Path, thinwire: Thinwire) -> None:
    for name, change in TOKENS:
        for _ in forged(work / "tokens" / name, [change]):
            thinwire("info", work / "tokens").refused()
            thinwire("train", work / "tokens", "-o", work / "new", *TRAIN).refused()
            assert not (work / "new").exists()


def test_token_that_is_not_in_the_vocabulary(work: Path, thinwire: Thinwire) -> None:
    shard = work / "tokens/idioms.train.00000.bin"
    shard.write_bytes(b"\xff\xff" * (shard.stat().st_size // 2))
    sign(work / "tokens")
    thinwire("train", work / "tokens", "-o", work / "new", *TRAIN).refused(
        "do not fit together; build the tokens again"
    )


def test_numbers_that_are_not_finite(work: Path, thinwire: Thinwire) -> None:
    means = work / "circuits" / TASK / "means.safetensors"
    whole = load_file(means)
    for name, value in ((name, value) for name in (min(whole), max(whole)) for value in (math.nan, math.inf)):
        tensors = {key: tensor.clone() for key, tensor in whole.items()}
        tensors[name][-1] = value
        save_file(tensors, means)
        sign(means.parent)
        refusal = f"means.safetensors holds numbers that are not finite, in {name}; prune again"
        thinwire("verify", means.parent, *VERIFY, "--force").refused(refusal)


def test_headers_with_absurd_shapes(work: Path, thinwire: Thinwire) -> None:
    for path in (work / "model/weights.safetensors", work / "circuits" / TASK / "means.safetensors"):
        for shape in ([2**62, 0], [2**31, 0, 2**40], [-1], [2**70], [[3]], "x"):
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
            header = json.dumps({"embedding": entry}).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header)
            sign(path.parent)
            thinwire("info", path.parent).refused()
    offsets = work / "tokens/idioms.train.offsets.npy"
    for shape in ((10**15,), (2**63,), (2**70,), (-1,)):
        with offsets.open("wb") as file:
            write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
        sign(offsets.parent)
        thinwire("info", offsets.parent).refused("build the tokens again")


READ = {
    "tokens": ("config.json", "stats.json", "tokenizer.json", "idioms.train.00000.bin", "idioms.train.offsets.npy"),
    "model": ("model.json", "tokenizer.json", "weights.safetensors", "summary.json"),
    f"circuits/{TASK}": ("circuit.json", "means.safetensors"),
    f"verdicts/{TASK}": ("verdict.json",),
}
"""Files that `view` reads, by the artefact that has to list them."""


def test_files_that_are_not_listed_are_not_read(work: Path, thinwire: Thinwire) -> None:
    for place, names in READ.items():
        meta = work / place / "meta.json"
        whole = meta.read_text()
        for name in names:
            with case(f"{place}/{name}"):
                changed = json.loads(whole)
                del changed["files"][name]
                meta.write_text(json.dumps(changed))
                verb = "info" if place.startswith("verdicts") else "view"
                target = meta.parent if verb == "info" else work / "circuits" / TASK
                thinwire(verb, target).refused()
        meta.write_text(whole)


HARMLESS: list[Edit] = [
    at("seed", value=HUGE),
    at("thinwire", value="[red]\x1b[31m\n"),
]
"""Edits of meta.json that change nothing that is read."""
METAS: list[Edit] = [
    *HARMLESS,
    *NOT_OBJECTS,
    at("version", value=HUGE),
    at("version", value="1"),
    at("files", value={}),
    at("format", value="../../x"),
    at("format", value="[red]\x1b"),
    at("parents", value={"model": 3}),
    at("files", value={"../../../etc/passwd": {"bytes": 1, "sha256": ""}}),
    at("files", value={"/etc/passwd": {"bytes": 1, "sha256": ""}}),
    at("files", value={"\x00": {"bytes": 1, "sha256": ""}}),
    at("files", value={"": {"bytes": 1, "sha256": ""}}),
    at("files", value={"x" * 5000: {"bytes": 1, "sha256": ""}}),
    at("files", "circuit.json", "bytes", value=-1),
]


def test_forged_meta(work: Path, thinwire: Thinwire, few_pairs: None) -> None:
    meta = work / "circuits" / TASK / "meta.json"
    whole, accepted = meta.read_text(), list[Edit]()
    for change in METAS:
        meta.write_text(edited(whole, change))
        for words in (["info", meta.parent], ["view", meta.parent]):
            ran = thinwire(*words)
            assert "\x1b" not in ran.out + ran.err
            if ran.code:
                ran.refused()
            else:
                accepted.append(change)
    harmless = [change for change in HARMLESS for _ in ("info", "view")]
    assert accepted == harmless
