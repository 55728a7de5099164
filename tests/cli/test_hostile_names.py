"""Names and texts from outside are shown as text: no control characters on a terminal, no markup, no exception."""

import os
from pathlib import Path

from cli_workspace import DATA, PRUNE, TASK, TRAIN, VERIFY, Thinwire

NAMES = [b"[red]x[blue].py", b"\x1b[31mred.py", b"<script>alert(1)<", b"a\nb.py", b"\xff\xfe.py", "\u202e.py".encode()]
TEXTS = [
    "x = '<script>alert(1)</script>'\n",
    "# \x1b[31mred\x1b[0m \x07 \x00\n",
    "# <|endoftext|> [red]markup[/blue] \u2028 \u202e {{}} %s\n",
    "</script><!-- ]]> --> \U0001f600\n",
]


def clean(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_folder_names(work: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    place = work
    for seed, name in enumerate((name for name in NAMES if b"\xff" not in name), start=3):
        folder = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        for ran in (thinwire("info", folder), thinwire("view", folder), thinwire("tasks", "score", folder)):
            ran.refused()
            assert clean(ran.err)
        place = place.rename(folder)
        circuit = folder / "circuits" / TASK
        for words in (
            ["info", folder / "tokens"],
            ["prune", folder / "model", "-t", TASK, *PRUNE, "--seed", seed, "--force"],
            ["prune", folder / "model", "-t", TASK, *PRUNE, "--seed", seed],  # names what it reuses
            ["verify", circuit, *VERIFY],
            ["view", circuit],
            ["view", circuit, "--json"],
        ):
            ran = thinwire(*words)
            assert ran.code == 0, ran
            assert clean(ran.out + ran.err)
        assert thinwire("view", circuit, "--json").json["out"] == str(folder / "index.html")


def test_corpus_of_hostile_files(tmp_path: Path, thinwire: Thinwire) -> None:
    folder = tmp_path / "[red]\x1b[31msources"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        path = Path(os.fsdecode(bytes(folder) + b"/" + name))
        path = path if name.endswith(b".py") else Path(f"{path}.py")
        path.write_text("".join(TEXTS) * (20 + number), "utf-8")
    (folder / "half.py").write_bytes(b"x = '\xff\xfe'\n")
    (folder / "loop.py").symlink_to(folder / "loop.py")
    words = ["--out", tmp_path / "w/tokens", *DATA, "--folders", folder, "--vocab-size", "500"]
    built = thinwire("data", *words)
    assert built.code == 0
    assert clean(built.out + built.err)
    assert thinwire("data", *words).code == 0
    train = [*TRAIN, "--model.vocab-size", "500"]
    assert thinwire("train", tmp_path / "w/tokens", "--out", tmp_path / "w/model", *train).code == 0
    assert thinwire("prune", tmp_path / "w/model", "--task", TASK, *PRUNE).code == 0
    assert thinwire("verify", tmp_path / "w/circuits" / TASK, *VERIFY).code == 0
    assert thinwire("view", tmp_path / "w/circuits" / TASK).code == 0
    assert "<script>alert" not in (tmp_path / "w/index.html").read_text("utf-8")
    assert clean(thinwire("view", tmp_path / "w/circuits" / TASK, "--text").out)
