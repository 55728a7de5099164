"""A Hugging Face model trained by the recipe, bridged by the command, and steered as the docs show."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
TOKENS, SPARSE, DENSE, OUT = "runs/quickstart/tokens", "runs/quickstart/model", "runs/hf-gpt2", "runs/hf-bridge"
SHAPE = ["--layers", "1", "--width", "32", "--steps", "8", "--batch-size", "4"]
FEW = ["--tokens", TOKENS, "--ridge-tokens", "2000", "--validation-tokens", "200", "--batch-size", "4"]
FEW += ["--bridge-steps", "3", "--joint-steps", "3"]


def recipe(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "recipes/hf_model.py"), TOKENS, "--out", DENSE, *words, "--json"]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.slow
def test_a_hugging_face_model_is_trained_bridged_and_steered(
    finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    made = recipe(*SHAPE)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["held_out_loss"] > 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path(DENSE).iterdir()}
    assert f"{DENSE} exists" in recipe(*SHAPE).stderr
    first = thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--json").json
    assert list(first["stages"]) == ["ridge", "maps", "joint"]
    assert "transformers" not in thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW).err.lower()
    assert thinwire("bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--json").json["reused"]
    thinwire("bridge", SPARSE, SPARSE, "--out", OUT, *FEW).refused("another dense model")
    assert thinwire("info", f"{OUT}/maps", "--json").json["stage"] == "maps"
    (block,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/bridges.md").read_text("utf-8"), re.DOTALL)
    Path("block.py").write_text(block, "utf-8")
    names = runpy.run_path("block.py")
    assert names["towards_second"].ratio > 0
    assert names["found"].task == TASK
    assert names["found"].over_random > 0
    Path(DENSE, "model.safetensors").rename(Path(DENSE, "pytorch_model.bin"))
    thinwire("bridge", DENSE, SPARSE, "--out", "runs/b", *FEW).refused("has no model.safetensors", "save_pretrained")
