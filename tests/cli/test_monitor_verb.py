"""thinwire monitor on a model that a random bridge joins to itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cases import case
from cli_workspace import TASK, Thinwire, with_nodes

from thinwire import artifact
from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.profile import Profile
from thinwire.bridge.store import BridgeSummary, save_bridge
from thinwire.model.weights import load

MODEL, CIRCUIT, BRIDGE = "runs/work/model", f"runs/work/circuits/{TASK}", "runs/bridge/maps"
NODES = ["h_1:3", "0.mlp.post_act:7"]
LINES = [{"text": f"x = [{n}]" if n % 2 else f"x = {n}", "label": bool(n % 2)} for n in range(24)]


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace, a bridge between its model and itself, and prompts; not to be written in."""
    home = tmp_path_factory.mktemp("monitor")
    shutil.copytree(finished, home / "runs" / "work")
    with_nodes(home / "runs" / "work")
    model = artifact.open_artifact(home / MODEL, "model")
    torch.manual_seed(0)
    bridge = Bridge(tuple(Junction(i, i) for i in range(3)), 32, 32)
    summary = BridgeSummary(stage="maps", seconds=1.0, profile=Profile(1.0, 1.0, *([[1.0] * 3] * 4)))
    tokens = artifact.open_artifact(home / "runs/work/tokens", "tokens")
    parents = {"dense": model, "sparse": model, "tokens": tokens}
    save_bridge(home / BRIDGE, bridge, BridgeConfig(), parents, summary)
    (home / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (home / "bare.jsonl").write_text('\n{"text": "def f():"}\n')
    return home


def test_values_at_every_token(home: Path, thinwire: Thinwire) -> None:
    ran = thinwire("monitor", BRIDGE, "--nodes", *NODES, "--prompts", "bare.jsonl")
    assert ran.code == 0
    (line,) = ran.out.splitlines()
    found = json.loads(line)
    assert (found["line"], set(found)) == (2, {"line", "tokens", "values"})
    assert found["tokens"][0] == "<|endoftext|>"
    assert "".join(found["tokens"][1:]) == "def f():"
    assert list(found["values"]) == NODES
    model, stored = load(MODEL), artifact.open_artifact(Path(BRIDGE), "bridge")
    assert stored.meta.parents["dense"] == artifact.open_artifact(Path(MODEL), "model").id
    assert all(len(values) == len(found["tokens"]) for values in found["values"].values())
    more = thinwire("monitor", BRIDGE, "--nodes", *NODES, "--prompts", "bare.jsonl", "--generate", "4", "--exact")
    longer = json.loads(more.out)
    assert longer["tokens"][: len(found["tokens"])] == found["tokens"]
    assert len(found["tokens"]) <= len(longer["tokens"]) <= len(found["tokens"]) + 3
    assert len(longer["values"]["h_1:3"]) == len(longer["tokens"]) <= model.config.context
    assert longer["values"]["h_1:3"][: len(found["tokens"])] == pytest.approx(found["values"]["h_1:3"], rel=1e-4)


def test_thresholds_from_labels(home: Path, thinwire: Thinwire) -> None:
    words = ["monitor", BRIDGE, "--nodes", *NODES, "--prompts", "prompts.jsonl", "--last", "--out", "out.jsonl"]
    ran = thinwire(*words, "--json")
    found, lines = ran.json, [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    chosen, reported = found["chosen_on_lines"], found["reported_on_lines"]
    assert sorted(chosen + reported) == list(range(1, 25))
    detection = found["detection"]["h_1:3"]
    assert (detection["positive"], detection["negative"]) == (6, 6)
    # what the table says follows from the flags in the file
    flagged = [line for line in lines if line["line"] in reported and line["flags"]["h_1:3"]]
    hits = [line for line in flagged if line["label"]]
    assert detection["recall"] == len(hits) / 6
    assert detection["precision"] == pytest.approx(len(hits) / len(flagged))
    bound = detection["threshold"]
    for line in lines:
        value = line["values"]["h_1:3"]
        assert line["flags"]["h_1:3"] == (value >= bound["value"] if bound["above"] else value <= bound["value"])
    table = thinwire(*words).out
    assert "h_1:3" in table
    assert max(map(len, table.splitlines())) <= 80
    given = thinwire(*words, "--threshold", "0.5", "--below", "--json").json
    assert given["thresholds"] == [{"value": 0.5, "above": False}] * 2
    assert (given["chosen_on_lines"], given["reported_on_lines"]) == ([], list(range(1, 25)))


def test_a_circuit_is_watched(home: Path, thinwire: Thinwire) -> None:
    found = thinwire("monitor", BRIDGE, "--circuit", CIRCUIT, "--prompts", "bare.jsonl", "--json").json
    expected = ["0.attn.act_in:1", "0.attn.v:1.2", "h_1:3", "0.mlp.act_in:3", "0.mlp.post_act:7", "h_2:3"]
    assert found["nodes"] == expected


def test_what_cannot_be_done_is_one_sentence(home: Path, thinwire: Thinwire) -> None:
    for name, text in {
        "empty": "\n\n",
        "json": '{"text": "a"}\n{"text"\n',
        "key": '{"text": "a", "lable": true}\n',
        "twice": '{"text": "a", "text": "b"}\n',
        "type": '{"text": "a", "label": "yes"}\n',
        "nothing": '{"text": ""}\n',
        "few": '{"text": "a", "label": true}\n',
        "both": '{"text": "a", "label": true}\n{"text": "a", "label": false}\n',
        "long": '{"text": "a"}\n{"text": "' + "a b " * 100 + '"}\n',
    }.items():
        Path(f"{name}.jsonl").write_text(text)
    cases = [
        (["--prompts", "empty.jsonl"], "has no lines"),
        (["--prompts", "json.jsonl"], "Line 2 of json.jsonl"),
        (["--prompts", "key.jsonl"], "Line 1 of key.jsonl: unknown key 'lable'"),
        (["--prompts", "twice.jsonl"], "gives the key 'text' twice"),
        (["--prompts", "type.jsonl"], "Line 1 of type.jsonl: label"),
        (["--prompts", "nothing.jsonl"], "Line 1 of nothing.jsonl: text"),
        (["--prompts", "few.jsonl"], "1 different prompts labelled true"),
        (["--prompts", "both.jsonl"], "both true and false"),
        (["--prompts", "long.jsonl"], "Line 2 of long.jsonl has"),
        (["--prompts", "gone.jsonl"], "cannot be read"),
        (["--prompts", "bare.jsonl", "--threshold", "1", "2", "3"], "3 thresholds were given for 2 nodes"),
        (["--prompts", "bare.jsonl", "--below"], "give --threshold too"),
        (["--prompts", "bare.jsonl", "--generate", "-1"], "tokens"),
        (["--prompts", "bare.jsonl", "--temperature", "0.7"], "give --generate too"),
        (["--prompts", "bare.jsonl", "--out", f"{BRIDGE}/out.jsonl"], "lies in the artefact"),
        (["--prompts", "bare.jsonl", "--nodes", "0.attn.resid_delta:3"], "is a write"),
    ]
    for words, said in cases:
        with case(words):
            thinwire("monitor", BRIDGE, "--nodes", *NODES, *words).refused(said)
    thinwire("monitor", BRIDGE, "--prompts", "bare.jsonl").refused("give --nodes, or a --circuit")
    thinwire("monitor", MODEL, "--prompts", "bare.jsonl", "--nodes", "h_1:3").refused("bridge artefact is needed")


def test_given_thresholds_judge_any_labels_and_are_numbers(home: Path, thinwire: Thinwire) -> None:
    lines = [{"text": "a", "label": True}, {"text": "b", "label": False}, {"text": "c", "label": True}]
    words = ["monitor", BRIDGE, "--nodes", NODES[0], "--last", "--prompts"]
    Path("few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    thinwire(*words, "few.jsonl").refused("a threshold needs 4 of each label; label more, or give --threshold.")
    found = thinwire(*words, "few.jsonl", "--threshold", "0.1", "--out", "out.jsonl", "--json").json
    assert (found["detection"][NODES[0]]["positive"], found["detection"][NODES[0]]["negative"]) == (2, 1)
    Path("true.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[::2]))
    ran = thinwire(*words, "true.jsonl", "--threshold", "0.1")
    assert (ran.code, len(ran.out.splitlines())) == (0, 2), "labels of one kind say nothing of a threshold"
    for value in ("nan", "inf", "1e400"):
        thinwire(*words, "few.jsonl", "--threshold", value).refused("--threshold has to be a finite number.")


def test_a_file_that_is_read_is_never_written(home: Path, thinwire: Thinwire) -> None:
    before = Path("prompts.jsonl").read_bytes()
    Path("link.jsonl").symlink_to("prompts.jsonl")
    Path("config.json").write_text('{"draws": 2}')
    for out in ("prompts.jsonl", "link.jsonl", "./prompts.jsonl"):
        words = ["monitor", BRIDGE, "--nodes", NODES[0], "--prompts", "prompts.jsonl", "--out", out]
        thinwire(*words).refused("is a file that this command reads; choose another --out.")
    for words in (["steer", BRIDGE, CIRCUIT], ["transfer", BRIDGE, CIRCUIT], ["verify", CIRCUIT]):
        for out in (["--out", "config.json"], ["--out=./config.json"]):
            ran = thinwire(*words, "--config", "config.json", *out)
            ran.refused("config.json is given for --config and once more; name another file.")
    assert Path("prompts.jsonl").read_bytes() == before
    assert Path("config.json").read_text() == '{"draws": 2}'
