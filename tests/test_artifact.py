"""Artefact folders: every refusal in one sentence, and writes that happen whole or not at all."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from thinwire import artifact
from thinwire.artifact import FORMATS, Artifact, Format
from thinwire.cli.main import run
from thinwire.config import Config
from thinwire.errors import UserError


class Recipe(Config):
    """A config for these tests."""

    size: int = Field(default=3, ge=1)
    """How big."""
    name: str = "soup"
    """What it is."""


def make(folder: Path, text: str = "data", kind: str = "soup", parents: dict[str, Artifact] | None = None) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub/data.txt").write_text(text)
    return artifact.finish(folder, kind, Recipe(size=5), parents or {}, ["sub/data.txt"], seed=7)


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats of these tests alone: soup and stew, and models, which may be shipped."""
    monkeypatch.setattr(FORMATS, "_entries", {})
    for kind in ("soup", "stew"):
        FORMATS.register(kind)(Format(version=1, files=("sub/*.txt",)))
    FORMATS.register("model")(Format(version=1, files=(), shipped=True, in_place=True))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "made")
    return tmp_path / "made"


def refused(folder: Path, match: str, kind: str = "soup") -> None:
    with pytest.raises(UserError, match=match) as caught:
        artifact.open_artifact(folder, kind)
    message = str(caught.value)
    assert message.endswith((".", "(it has no meta.json)."))
    assert "\n" not in message
    assert str(folder) in message


def edit_meta(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


def test_finished_artefact_opens(made: Path) -> None:
    opened = artifact.open_artifact(made, "soup")
    assert opened.config(Recipe) == Recipe(size=5)
    assert opened.meta.seed == 7
    assert opened.meta.thinwire == artifact.version()
    assert set(opened.meta.files) == {"config.json", "sub/data.txt"}
    assert opened.meta.files["sub/data.txt"].bytes == 4
    sum_of_data = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert opened.meta.files["sub/data.txt"].sha256 == artifact.sha256(made / "sub/data.txt") == sum_of_data


def test_id_follows_the_content(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    assert make(tmp_path / "b").id == first.id
    assert make(tmp_path / "c", text="date").id != first.id
    assert make(tmp_path / "d", kind="stew").id != first.id
    assert len(first.id) == 16
    assert artifact.open_artifact(tmp_path / "a", "soup").id == first.id


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a folder; give the path of a soup artefact")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is not a folder")


def test_unfinished_and_foreign_folders_are_told_apart(made: Path, tmp_path: Path) -> None:
    (made / "meta.json").unlink()
    assert not artifact.is_finished(made)
    refused(made, "is unfinished; run the command that makes it again")
    (tmp_path / "photos").mkdir()
    refused(tmp_path / "photos", "is not a soup artefact")


def test_wrong_kind_and_version_are_refused(made: Path) -> None:
    refused(made, "is a soup artefact where a model artefact is needed", kind="model")
    edit_meta(made, version=2)
    refused(made, "has soup format 2 and this thinwire reads 1; make it again")


def test_damaged_meta_is_refused(made: Path) -> None:
    whole = json.loads((made / "meta.json").read_text())
    extra = json.dumps(whole | {"colour": "red"})
    for text in ("", "{", "[]", "{}", '{"format": "soup"}', "\x00\x01", "null", extra):
        (made / "meta.json").write_text(text)
        refused(made, "meta.json is damaged or was not written by thinwire")


def test_truncated_altered_and_missing_files_are_refused(made: Path) -> None:
    config = (made / "config.json").read_text()
    (made / "config.json").write_text(Recipe(size=6).to_json())
    refused(made, "config.json is missing, truncated or altered")
    (made / "config.json").write_text(config)
    data = made / "sub/data.txt"
    for change in (lambda: data.write_text("dat"), lambda: data.write_text("dada"), data.unlink, data.mkdir):
        change()
        refused(made, "data.txt is missing, truncated or altered; make the artefact again")


def test_meta_that_lists_files_of_others_is_refused(made: Path) -> None:
    (made.parent / "secret").write_text("x")
    (made / "run.sh").write_text("x")
    entry = {"bytes": 1, "sha256": artifact.sha256(made / "run.sh")}
    for name in ("../secret", "sub/../../secret", "/etc/passwd"):
        edit_meta(made, files={name: entry})
        refused(made, "names a file outside the folder .*; do not trust this artefact")
    edit_meta(made, files={"run.sh": entry})
    refused(made, r"lists run\.sh, which a soup artefact does not have; do not trust it")


BRIDGE = """
from thinwire import artifact
from thinwire.config import Config

artifact.FORMATS.register("bridge")(artifact.Format(version=3, files=("bridge.txt",)))


class Span(Config):
    metres: int


def write(folder, model):
    artifact.write_text(folder / "bridge.txt", "steel")
    return artifact.finish(folder, "bridge", Span(metres=40), {"model": model}, ["bridge.txt"])


def write_more(folder):
    artifact.write_text(folder / "plan.txt", "drawn")
    artifact.finish(folder, "bridge", Span(metres=40), {}, ["plan.txt"])
"""


def test_a_module_registers_a_format_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/own_bridge.py").write_text(BRIDGE)
    monkeypatch.syspath_prepend(tmp_path / "room")
    folder = tmp_path / "bridge"
    folder.mkdir()
    own_bridge = importlib.import_module("own_bridge")
    parent = artifact.open_artifact(made, "soup")
    written = own_bridge.write(folder, parent)
    opened = artifact.open_artifact(folder, "bridge")
    assert opened == written
    assert opened.meta.version == 3
    assert opened.config(own_bridge.Span).metres == 40
    artifact.require_parent(opened, "model", parent)
    refused(folder, "is a bridge artefact where a soup artefact is needed")
    with pytest.raises(AssertionError, match=r"the format bridge registers no file plan\.txt"):
        own_bridge.write_more(folder)
    assert run(["info", str(folder), "--json"]) == 0
    described = json.loads(capfd.readouterr().out)
    assert (described["kind"], described["format"], described["id"]) == ("bridge", 3, opened.id)
    monkeypatch.setattr(FORMATS, "_entries", {"soup": FORMATS["soup"]})
    refusal = "no imported module registers; import or install the module that writes this format"
    with pytest.raises(UserError, match=f"^'bridge' is a format that {refusal}\\.$"):
        artifact.open_artifact(folder, "bridge")
    assert run(["info", str(folder)]) == 2
    assert f"{folder} is an artefact of format 'bridge', which {refusal}." in capfd.readouterr().err


def test_finished_work_is_reused_and_that_is_reported(made: Path, tmp_path: Path) -> None:
    reports: list[str] = []

    def text(folder: Path) -> str:
        return (artifact.open_artifact(folder, "soup").path / "sub/data.txt").read_text()

    def get(folder: Path, wanted: str, again: bool = False) -> str:
        def report(done: int, total: int, status: str) -> None:
            reports.append(f"{done}/{total} {status}")

        def find() -> str | None:
            return artifact.finished(folder, text, lambda found: found == wanted)

        return artifact.reuse_or_make(folder, find, lambda: "made", report, again)

    assert get(made, "data") == "data"
    assert reports == [f"1/1 reused {made}"]
    assert artifact.finished(made, text, lambda found: found == "data") == "data"
    assert get(made, "other") == get(made, "data", again=True) == get(tmp_path / "nowhere", "data") == "made"
    (made / "sub/data.txt").write_text("damaged")
    assert get(made, "damaged") == "made"
    assert artifact.finished(made, text, lambda found: True) is None
    assert len(reports) == 1


def test_parents_are_known_by_content(made: Path, tmp_path: Path) -> None:
    parent = artifact.open_artifact(made, "soup")
    child = make(tmp_path / "child", kind="stew", parents={"soup": parent})
    artifact.require_parent(child, "soup", parent)
    other = make(tmp_path / "other", text="more")
    with pytest.raises(UserError, match=r"was not made from .*other .*make it again from this soup"):
        artifact.require_parent(child, "soup", other)
    with pytest.raises(UserError, match="was not made from"):
        artifact.require_parent(child, "model", parent)


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


def test_failure_to_move_the_new_one_keeps_the_old_one(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if target == made and path.suffix == ".tmp":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
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
    (made / "meta.json").unlink()  # as a training that has not ended
    with pytest.raises(UserError, match="holds a model where a soup is to be written"):
        artifact.refuse_foreign(made, "soup")
    artifact.refuse_foreign(made, "model")
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
