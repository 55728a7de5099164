"""Artefact folders are written whole or not at all."""

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from cases import case
from soup import make

from thinwire import artifact
from thinwire.artifact import FORMATS, scratch
from thinwire.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace_by(folder: Path, text: str, error: type[BaseException] | None = None) -> None:
    """Replace an artefact, or fail in the middle of it."""
    with artifact.replacing(folder) as scratch:
        make(scratch, text)
        if error is not None:
            raise error


def test_replacing_puts_the_new_in_place_of_the_old(made: Path) -> None:
    (made / "left over").write_text("old")
    with artifact.replacing(made) as scratch:
        make(scratch, text="new")
        assert (made / "sub/data.txt").read_text() == "data", "until the end the old one stands"
    assert (made / "sub/data.txt").read_text() == "new"
    artifact.open_artifact(made, "soup")
    assert "left over" not in names(made)
    assert names(made.parent) == ["made"]


def test_replacing_makes_the_parents(tmp_path: Path) -> None:
    replace_by(tmp_path / "a/b/c", "new")
    artifact.open_artifact(tmp_path / "a/b/c", "soup")


def test_failure_keeps_the_old_one(made: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            replace_by(made, "new", error)
        assert (made / "sub/data.txt").read_text() == "data"
        artifact.open_artifact(made, "soup")
        assert names(made.parent) == ["made"]


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that cannot exchange two folders in one step."""
    monkeypatch.setattr(scratch, "_exchange", lambda one, other: False)


def test_failure_to_move_the_new_one_keeps_the_old_one(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if target == made and source.suffix == ".tmp" and not made.exists():
            raise OSError("no")
        rename(source, target)

    without_exchange(monkeypatch)
    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OSError, match="no"):
        replace_by(made, "new")
    assert (made / "sub/data.txt").read_text() == "data"


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    with pytest.raises(UserError, match="holds files that are not a thinwire artefact"):
        replace_by(tmp_path / "photos", "new")
    with pytest.raises(UserError, match="is a file; choose a folder"):
        replace_by(tmp_path / "photos/cat.jpg", "new")
    assert names(tmp_path) == ["photos"]
    (tmp_path / "empty").mkdir()
    replace_by(tmp_path / "empty", "new")
    artifact.open_artifact(tmp_path / "empty", "soup")


def test_work_of_another_kind_is_never_replaced(made: Path) -> None:
    for kind in ("model", "tokens", "stew"):
        with pytest.raises(UserError, match=f"holds a soup where a {kind} is to be written; choose another --out"):
            artifact.refuse_foreign(made, kind)
    artifact.refuse_foreign(made, "soup")
    (made / "meta.json").write_text("damaged")
    artifact.refuse_foreign(made, "soup")
    (made / "meta.json").unlink()  # a soup still, by its files
    artifact.refuse_foreign(made, "soup")
    with pytest.raises(UserError, match="holds sub, which no model artefact has; move it"):
        artifact.refuse_foreign(made, "model")
    shutil.rmtree(made / "sub")  # as a training that has just begun
    artifact.refuse_foreign(made, "model")
    with pytest.raises(UserError, match="holds a model where a soup is to be written"):
        artifact.refuse_foreign(made, "soup")
    del FORMATS._entries["model"]  # no imported module registers it
    with pytest.raises(UserError, match="holds a run that is not finished where a soup is to be written"):
        artifact.refuse_foreign(made, "soup")


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be created"), artifact.replacing(tmp_path / "file/below/out"):
        raise AssertionError


def write_half(path: Path) -> None:
    with artifact.atomic(path) as temporary:
        temporary.write_text("half of tw")
        raise RuntimeError


def test_atomic_writes_whole_files_or_none(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    artifact.write_text(path, "one")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "one"
    with artifact.atomic(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_one_sentence_and_keeps_the_old_one(made: Path, number: int) -> None:
    before = (made / "sub/data.txt").read_bytes()

    def write(kind: str) -> None:
        with ExitStack() as stack:
            if kind == "file":
                stack.enter_context(artifact.atomic(made / "config.json"))
            else:
                folder = stack.enter_context(artifact.replacing(made, "soup"))
            if kind == "file in a folder":
                stack.enter_context(artifact.atomic(folder / "a.txt"))
            raise OSError(number, os.strerror(number))

    remedy = {errno.ENOSPC: "free some space", errno.EFBIG: "raise the limit on the size of files"}[number]
    places = {"file": made / "config.json", "folder": made, "file in a folder": made / "a.txt"}
    for kind, place in places.items():
        refusal = f"{place} cannot be written ({os.strerror(number)}); {remedy}, or choose another --out."
        with case(kind), pytest.raises(UserError, match=f"^{re.escape(refusal)}$"):
            write(kind)
    assert (made / "sub/data.txt").read_bytes() == before
    assert artifact.open_artifact(made, "soup")


def test_tensors_on_a_full_disk_are_one_sentence(tmp_path: Path) -> None:
    """The limit on the size of files is that of a process of its own: half of the tensors do not fit."""
    program = """
import resource, sys
from pathlib import Path
import torch
from thinwire.artifact.tensors import write_tensors
from thinwire.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_tensors(Path(sys.argv[1]), {"a": torch.zeros(2048)})
except UserError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program, tmp_path / "a.safetensors"], capture_output=True, text=True)
    assert ran.stdout == (
        f"{tmp_path}/a.safetensors cannot be written (File too large); "
        "raise the limit on the size of files, or choose another --out.\n"
    ), ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    artifact.write_text(path, "one")
    program = (
        "import os, signal, sys; from pathlib import Path; from thinwire import artifact\n"
        "with artifact.atomic(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -9
    assert path.read_text() == "one"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from thinwire import artifact\n"
        "with artifact.sole_writer(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with artifact.sole_writer(tmp_path / "out"):
        second = subprocess.run(command, capture_output=True, text=True)
        assert "UserError: Another process is writing in" in second.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
    artifact.refuse_foreign(tmp_path / "out")  # the lock alone is nothing foreign


def test_killed_writer_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from thinwire import artifact\n"
        "with artifact.sole_writer(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    with artifact.sole_writer(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_place_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be created"):
        artifact.make_parents(tmp_path / "a/b")
