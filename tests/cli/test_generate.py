"""thinwire generate: texts as they come, prompts from everywhere, circuits, and docs/generate.md."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_workspace import PRUNE, TASK, Thinwire

from thinwire.cli import generate
from thinwire.data import Tokenizer
from thinwire.display import visible

SHIPPED = "python-2x256"
DOCS = (Path(__file__).parents[2] / "docs/generate.md").read_text("utf-8")
EVIL = "x = '\x1b[31m[red]\x07\x9b' # \u202e \ufeff</script>\r\n\ty"


def clean(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.fixture
def model(finished: Path) -> Path:
    return finished / "model"


def test_one_text(model: Path, thinwire: Thinwire) -> None:
    words = ["generate", model, "--prompt", "import ", "--tokens", "20", "--seed", "5"]
    found = thinwire(*words, "--json").json
    assert list(found) == ["prompt", "texts", "tokens", "finish", "seconds", "tokens_per_second"]
    assert (found["prompt"], found["finish"], len(found["tokens"][0])) == ("import ", ["length"], 20)
    assert found["texts"] == [Tokenizer.load(model).decode(found["tokens"][0])]
    assert found["tokens_per_second"] == pytest.approx(20 / found["seconds"])
    ran = thinwire(*words)
    assert ran.out.rstrip("\n") == visible(f"import {found['texts'][0]}", keep="\n\t").rstrip("\n")
    assert ran.out.endswith("\n")
    assert re.fullmatch(r"20 tokens in \S+ s, \S+ tokens/s\n", ran.err)
    assert thinwire(*words[:-1], "6").out != ran.out


def test_several_texts_are_those_of_their_seeds(model: Path, thinwire: Thinwire) -> None:
    words = ["generate", model, "--tokens", "9", "--temperature", "0.8", "--top-k", "50", "--top-p", "0.9"]
    found = thinwire(*words, "--samples", "3", "--json").json
    for row in range(3):
        assert thinwire(*words, "--seed", row, "--json").json["tokens"] == found["tokens"][row : row + 1]
    shown = thinwire(*words, "--samples", "3").out
    assert re.findall(r"^sample \d \(.*\)$", shown, re.MULTILINE) == [f"sample {n} (length)" for n in (1, 2, 3)]
    assert all(visible(text, keep="\n\t") in shown for text in found["texts"])


def test_a_text_ends_where_the_model_ends_it_or_the_context_does(thinwire: Thinwire) -> None:
    words = ["generate", SHIPPED, "-p", "def f(x):\n", "--tokens", "1000", "--samples", "4", "--json"]
    found = thinwire(*words).json
    assert set(found["finish"]) == {"end_of_text", "context"}
    prompt = 1 + len(Tokenizer.load(SHIPPED).encode("def f(x):\n"))
    for tokens, why in zip(found["tokens"], found["finish"], strict=True):
        assert (tokens[-1] == 0) == (why == "end_of_text")
        assert (prompt + len(tokens) == 128 + 1) == (why == "context")
    assert not any("<|endoftext|>" in text for text in found["texts"])
    on = thinwire(*words, "--no-stop")
    assert on.json["finish"] == ["context"] * 4
    assert any("<|endoftext|>" in text for text in on.json["texts"])
    assert on.err.endswith("; the model's context of 128 tokens is full\n")
    ended = found["finish"].index("end_of_text")
    assert on.json["texts"][ended].startswith(f"{found['texts'][ended]}<|endoftext|>")


def test_prompts_from_files(tmp_path: Path, thinwire: Thinwire) -> None:
    words = ["generate", SHIPPED, "--tokens", "4", "--json"]
    (tmp_path / "prompt.py").write_bytes("\ufeffcafé = 'ß'\r\n".encode())
    expected = thinwire(*words, "--prompt", "café = 'ß'\r\n").json
    found = thinwire(*words, "--prompt-file", tmp_path / "prompt.py").json
    assert (found["prompt"], found["tokens"]) == ("café = 'ß'\r\n", expected["tokens"])
    (tmp_path / "empty").touch()
    assert thinwire(*words, "--prompt-file", tmp_path / "empty").json["tokens"] == thinwire(*words).json["tokens"]
    thinwire(*words, "--prompt-file", os.devnull).refused("it is a device, not a regular file")
    kept = os.dup(0)
    try:
        with (tmp_path / "prompt.py").open("rb") as file:
            os.dup2(file.fileno(), 0)
        assert thinwire(*words, "--prompt-file", "-").json["tokens"] == expected["tokens"]
        os.close(0)
        thinwire(*words, "--prompt-file", "-").refused("Standard input cannot be read (Bad file descriptor)")
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_control_characters_never_reach_the_terminal(model: Path, thinwire: Thinwire) -> None:
    words = ["generate", model, "--prompt", EVIL, "--temperature", "1e9", "--tokens", "90", "--no-stop"]
    for options in ([], ["--samples", "3"], ["--json"]):
        ran = thinwire(*words, *options)
        assert ran.code == 0
        assert clean(ran.out + ran.err)
    assert thinwire(*words, "--json").json["prompt"] == EVIL
    text = thinwire(*words, "--json").json["texts"][0]
    assert not clean(text)
    assert "\ufffd" in text
    assert thinwire(*words).out == visible(EVIL + text, keep="\n\t").rstrip("\n") + "\n"


def test_a_text_is_written_as_it_comes(capfd: pytest.CaptureFixture[str]) -> None:
    def pieces() -> Iterator[str]:
        yield "b"
        assert capfd.readouterr().out == "ab"
        yield "\x1b\n"
        assert capfd.readouterr().out == "\\x1b\n"
        yield ""

    generate.write("a", pieces())
    assert capfd.readouterr().out == ""
    generate.write("a", iter([""]))
    assert capfd.readouterr().out == "a\n"


def test_a_circuit_alone(work: Path, thinwire: Thinwire) -> None:
    words = ["generate", work / "model", "--prompt", "rows = [[1, 2", "--tokens", "12", "--json"]
    whole = thinwire(*words).json["tokens"]
    alone = thinwire(*words, "--circuit", work / "circuits" / TASK).json["tokens"]
    assert len(alone[0]) == 12
    frozen = work / "frozen"
    assert thinwire("prune", work / "model", "-t", TASK, *PRUNE, "--frozen-norms", "-o", frozen).code == 0
    with_scales = thinwire(*words, "--circuit", frozen).json["tokens"]
    assert alone != whole
    assert with_scales != whole
    thinwire(*words[:1], SHIPPED, "--circuit", frozen).refused("was not made from")
    thinwire(*words, "--circuit", work / "model").refused("is a model artefact where a circuit artefact is needed")


def test_line_breaks_that_the_shell_left_are_noted(thinwire: Thinwire) -> None:
    words = ["generate", SHIPPED, "--tokens", "1", "--prompt"]
    ran = thinwire(*words, "def f(x):\\n")
    assert ran.err.startswith("Note: \\n in the prompt is two characters; ")
    assert ran.out.startswith("def f(x):\\n")
    assert "Note" not in thinwire(*words, 'print("\\n")\n').err


REFUSALS: list[tuple[list[str], str]] = [
    ([], "Missing from thinwire generate: PATH"),
    (["nowhere"], "nowhere is not a folder"),
    (["MODEL", "--temperature", "-0.1"], "temperature: input should be greater than or equal to 0"),
    (["MODEL", "--temperature", "nan"], "temperature: input should be a finite number"),
    (["MODEL", "--top-p", "0"], "top_p: input should be greater than 0"),
    (["MODEL", "--top-p", "1.01"], "top_p: input should be less than or equal to 1"),
    (["MODEL", "--top-k", "0"], "top_k: input should be greater than or equal to 1"),
    (["MODEL", "--tokens", "0"], "tokens: input should be greater than or equal to 1"),
    (["MODEL", "--seed", "-1"], "seed: input should be greater than or equal to 0"),
    (["MODEL", "--samples", "0"], "0 samples are not possible; choose 1 to 1024"),
    (["MODEL", "--samples", "9999999"], "choose 1 to 1024"),
    (["MODEL", "--prompt", "a", "--prompt-file", "b"], "Give either --prompt or --prompt-file, not both"),
    (["MODEL", "--prompt", "import os\n" * 100], "tokens does not fit the context of 128; shorten it"),
    (["MODEL", "--prompt", "caf\udcc3"], "is not UTF-8 text"),
    (["MODEL", "--prompt-file", "nowhere.py"], "nowhere.py cannot be read (No such file or directory)"),
    (["MODEL", "--prompt-file", "."], ". cannot be read (it is a folder"),
    (["MODEL", "--prompt-file", "BINARY"], "is not UTF-8 text; give text"),
    (["MODEL", "--prompt-file", "/dev/zero"], "/dev/zero cannot be read (it is a device"),
    (["MODEL", "--prompt-file", "LARGE"], "is larger than 1 MiB; give the end of it"),
]


def test_refusals(model: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\x02\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"a" * (generate.MAX_BYTES + 1))
    places = {"MODEL": str(model), "BINARY": str(tmp_path / "binary"), "LARGE": str(tmp_path / "large")}
    for words, said in REFUSALS:
        thinwire("generate", *(places.get(word, word) for word in words)).refused(said)


def test_interrupted(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    add = generate.Texts.add

    def interrupted(self: generate.Texts, step: object) -> None:
        if self.count == 3:
            raise KeyboardInterrupt
        add(self, step)  # pyright: ignore

    monkeypatch.setattr(generate.Texts, "add", interrupted)
    ran = thinwire("generate", SHIPPED, "--prompt", "import")
    assert ran.code == 1
    assert ran.err == "thinwire: Interrupted after 3 tokens.\n"
    assert ran.out.startswith("import")
    assert ran.out.endswith("\n")


def test_help_does_not_wait_for_torch() -> None:
    program = "import sys, thinwire.cli.generate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_commands_of_the_docs(finished: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished.parents[1])
    (tmp_path / "start.py").write_text("import os\n")
    commands = re.findall(r"^thinwire (generate .*)$", DOCS, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        words = [w.replace("$", "", 1) if w.startswith("$") else w for w in shlex.split(command.replace("\\n", "\n"))]
        ran = thinwire(*(str(tmp_path / word) if word == "start.py" else word for word in words), "--tokens", "3")
        assert ran.code == 0, ran
        assert ran.out


def test_python_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(block, {})
    said = capsys.readouterr().out
    assert said.startswith("def ")


def test_numbers_of_the_docs(thinwire: Thinwire) -> None:
    assert f"{generate.MAX_BYTES >> 20} MiB" in DOCS
    (shown,) = map(json.loads, re.findall(r'^\{"prompt".*?\}$', DOCS, re.MULTILINE | re.DOTALL))
    assert list(shown) == list(thinwire("generate", SHIPPED, "--tokens", "1", "--json").json)
    assert [Tokenizer.load(SHIPPED).decode(row) for row in shown["tokens"]] == shown["texts"]
    assert all(f"`{name}`" in DOCS for name in shown)
