"""Artefact folders are read: every refusal in one sentence, formats of other modules, reuse."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from soup import Recipe, edit_meta, make, refused

from thinwire import artifact
from thinwire.artifact import FORMATS
from thinwire.cli.main import run
from thinwire.errors import UserError


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
    refused(made, "has soup format 2 and this thinwire reads 1; update thinwire, or make it again")
    edit_meta(made, version=2, colour="red")
    refused(made, "has soup format 2 and this thinwire reads 1; update thinwire, or make it again")
    with pytest.raises(UserError, match="is of a newer thinwire, which may be needed; choose another --out"):
        artifact.refuse_foreign(made, "soup")
    edit_meta(made, version=0)
    refused(made, "has soup format 0 and this thinwire reads 1; make it again")
    artifact.refuse_foreign(made, "soup")


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


VIADUCT = """
from thinwire import artifact
from thinwire.config import Config

artifact.FORMATS.register("viaduct")(artifact.Format(version=3, files=("viaduct.txt",)))


class Span(Config):
    metres: int


def write(folder, model):
    artifact.write_text(folder / "viaduct.txt", "steel")
    return artifact.finish(folder, "viaduct", Span(metres=40), {"model": model}, ["viaduct.txt"])


def write_more(folder):
    artifact.write_text(folder / "plan.txt", "drawn")
    artifact.finish(folder, "viaduct", Span(metres=40), {}, ["plan.txt"])
"""


def test_a_module_registers_a_format_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/own_viaduct.py").write_text(VIADUCT)
    monkeypatch.syspath_prepend(tmp_path / "room")
    folder = tmp_path / "viaduct"
    folder.mkdir()
    own_viaduct = importlib.import_module("own_viaduct")
    parent = artifact.open_artifact(made, "soup")
    written = own_viaduct.write(folder, parent)
    opened = artifact.open_artifact(folder, "viaduct")
    assert opened == written
    assert opened.meta.version == 3
    assert opened.config(own_viaduct.Span).metres == 40
    artifact.require_parent(opened, "model", parent)
    refused(folder, "is a viaduct artefact where a soup artefact is needed")
    with pytest.raises(AssertionError, match=r"the format viaduct registers no file plan\.txt"):
        own_viaduct.write_more(folder)
    assert run(["info", str(folder), "--json"]) == 0
    described = json.loads(capfd.readouterr().out)
    assert (described["kind"], described["format"], described["id"]) == ("viaduct", 3, opened.id)
    monkeypatch.setattr(FORMATS, "_entries", {"soup": FORMATS["soup"]})
    refusal = "no imported module registers; import or install the module that writes this format"
    with pytest.raises(UserError, match=f"^'viaduct' is a format that {refusal}\\.$"):
        artifact.open_artifact(folder, "viaduct")
    assert run(["info", str(folder)]) == 2
    assert f"{folder} is an artefact of format 'viaduct', which {refusal}." in capfd.readouterr().err


def test_finished_work_is_reused_and_that_is_reported(made: Path, tmp_path: Path) -> None:
    reports: list[str] = []

    def text(folder: Path) -> str:
        return (artifact.open_artifact(folder, "soup").path / "sub/data.txt").read_text()

    def get(folder: Path, wanted: str, again: bool = False) -> str:
        def report(done: int, total: int, status: str) -> None:
            reports.append(f"{done}/{total} {status}")

        return artifact.reuse_or_make(folder, text, differ(wanted), lambda: "made", report, again)

    def differ(wanted: str) -> Callable[[str], list[str]]:
        return lambda found: ["text", "size"] * (found != wanted)

    assert get(made, "data") == "data"
    assert reports == [f"1/1 reused {made}"]
    assert artifact.finished(made, text, differ("data")) == "data"
    assert artifact.finished(made, text, differ("other")) is None
    refusal = (
        f"{made} is finished and differs in its text and size; choose another --out, or give --force to replace it."
    )
    with pytest.raises(artifact.Occupied, match=re.escape(refusal)):
        get(made, "other")
    assert get(made, "data", again=True) == get(tmp_path / "nowhere", "data") == "made"
    (made / "sub/data.txt").write_text("damaged")
    assert get(made, "damaged") == "made"
    assert artifact.finished(made, text, differ("damaged")) is None
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
