"""Writers that are killed at any moment, or compete: the artefact stays, and the next writer removes what they left."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soup import make

from thinwire import artifact
from thinwire.artifact import scratch

PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from soup import make
from thinwire import artifact
from thinwire.artifact import FORMATS, Format, scratch

FORMATS.register("soup")(Format(version=1, files=("sub/*.txt",)))

def die(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)

rename = os.rename
def rename_once(source, target):
    if str(target) == sys.argv[1] and str(source).endswith(".tmp") and not os.path.exists(target):
        die()
    rename(source, target)

rmtree = shutil.rmtree
def die_after_the_move(path, **named):
    die() if ".made." in Path(path).name else rmtree(path, **named)

how = sys.argv[2]
if how == "moved":
    shutil.rmtree = die_after_the_move
elif how == "between":
    scratch._exchange = lambda one, other: False
    os.rename = rename_once
while True:
    with artifact.replacing(Path(sys.argv[1])) as folder:
        make(folder, "new")
        if how == "inside":
            die()
"""


def writer(made: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(made), how, str(Path(__file__).parent)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["inside", "moved", "between"])
def test_killed_writer_hides_nothing(how: str, made: Path) -> None:
    assert writer(made, how).wait(60) == -signal.SIGKILL
    assert len(names(made.parent)) == 2
    opened = artifact.open_artifact(made, "soup")
    assert (opened.path / "sub/data.txt").read_text() == ("new" if how == "moved" else "data")
    with artifact.replacing(made) as folder:
        make(folder, "next")
    assert names(made.parent) == ["made"]


def test_killed_at_any_moment_among_others(made: Path) -> None:
    """Three writers at once, killed one after the other: at every moment there is a whole artefact."""
    writers = [writer(made, "never") for _ in range(3)]
    try:
        for killed in writers:
            until = time.monotonic() + 0.7
            while time.monotonic() < until:
                assert artifact.is_finished(made)
            assert killed.poll() is None
            killed.kill()
    finally:
        for each in writers:
            each.kill()
            each.wait()
    artifact.open_artifact(made, "soup")
    with artifact.replacing(made) as folder:
        make(folder, "next")
    assert names(made.parent) == ["made"]


def test_the_work_of_living_writers_is_left_alone(tmp_path: Path) -> None:
    for name in (".page.html.deadbeef.tmp", ".page.html.deadbeef", "page.html.deadbeef.tmp", ".other.deadbeef.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".page.html.0123abcd.tmp").write_text("a file of somebody else")
    with artifact.atomic(tmp_path / "page.html") as temporary:
        temporary.write_text("first")
        scratch.sweep(tmp_path, "page.html")
        with artifact.atomic(tmp_path / "page.html") as other:
            other.write_text("second")
        assert temporary.read_text() == "first"
    assert (tmp_path / "page.html").read_text() == "first"
    others = [".other.deadbeef.tmp", ".page.html.0123abcd.tmp", ".page.html.deadbeef", "page.html.deadbeef.tmp"]
    assert names(tmp_path) == sorted([*others, "page.html"])
    with artifact.sole_writer(tmp_path):
        assert ".other.deadbeef.tmp" not in names(tmp_path)
