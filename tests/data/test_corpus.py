import os
import sysconfig
from pathlib import Path

import pytest
from cases import case

from thinwire.data import DataConfig
from thinwire.data.corpus import Document, Skipped, folder_files, list_files, parts, read, read_file, stdlib_files
from thinwire.data.decode import NotText, decode
from thinwire.data.survey import hold_out, read_into_spool, texts, tokenizer_sample
from thinwire.errors import UserError
from thinwire.progress import silent


def folder_config(*folders: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"idioms": 0, "stdlib": False, "folders": folders, **changes})


def test_the_standard_library_is_read_without_tests_tables_and_machine_files() -> None:
    files = stdlib_files(Path(sysconfig.get_paths()["stdlib"]))
    names = [file.name for file in files]
    assert {"json/decoder.py", "argparse.py", "asyncio/tasks.py"} <= set(names)
    assert len(names) == len(set(names))
    excluded = {"test", "tests", "idle_test", "site-packages", "__pycache__", "encodings", "pydoc_data"}
    assert not any(excluded & set(name.split("/")) for name in names)
    assert not any(name.startswith("_sysconfigdata") for name in names)
    assert 5e6 < sum(file.path.stat().st_size for file in files) < 20e6


def test_folders_are_walked_in_a_fixed_order_past_hidden_ones(sources: Path) -> None:
    for hidden in (".git", "__pycache__", ".venv/lib"):
        (sources / hidden).mkdir(parents=True)
        (sources / hidden / "no.py").write_text("no = 1\n", encoding="utf-8")
    (sources / "notes.txt").write_text("no", encoding="utf-8")
    (sources / "folder.py").mkdir()
    os.symlink(sources, sources / "flat" / "loop")
    files = folder_files(sources)
    names = [file.name for file in files if not file.left_out]
    left_out = {file.name: file.left_out for file in files if file.left_out}
    hidden = {f"sources/{name}": "hidden folder" for name in (".git", ".venv")}
    assert left_out == hidden | {"sources/flat/loop": "linked folder"}
    expected = [f"deep/er/module_{i:02d}.py" for i in range(1, 40, 2)]
    expected += [f"flat/module_{i:02d}.py" for i in range(0, 40, 2)]
    assert names == [f"sources/{name}" for name in expected]


def test_what_gives_no_document_is_said(tmp_path: Path) -> None:
    contents = {
        "bad.py": b"x = '\xff\xfe'\n",
        "big.py": b"x = 1\n" * 1000,
        "blank.py": b"\r\n \n",
        "dangling.py": None,
        "dos.py": b"\xef\xbb\xbfx = 1\r\ny = 2\rz = 3\n",
    }
    for name, content in contents.items():
        if content is None:
            (tmp_path / name).symlink_to(tmp_path / "nowhere")
        else:
            (tmp_path / name).write_bytes(content)
    files = folder_files(tmp_path)
    found = [read_file(file, 1000) for file in files]
    label = tmp_path.name
    assert found[:4] == [
        Skipped("folders", f"{label}/bad.py", "undecodable"),
        Skipped("folders", f"{label}/big.py", "too large"),
        Skipped("folders", f"{label}/blank.py", "empty"),
        Skipped("folders", f"{label}/dangling.py", "unreadable"),
    ]
    assert found[4:] == [Document("folders", f"{label}/dos.py", "x = 1\ny = 2\nz = 3\n")]
    (tmp_path / "dos.py").unlink()
    assert read_file(files[-1], 1000) == Skipped("folders", f"{label}/dos.py", "unreadable")


def test_sources_are_read_by_the_encoding_they_declare(tmp_path: Path) -> None:
    line = "# -*- coding: {} -*-\nname = 'Andr\u00e9'\n"
    declared = {name: line.format(name).encode(name) for name in ("latin-1", "cp1252", "utf-8", "utf-7", "mac-roman")}
    declared["second line"] = b"\n" + declared["latin-1"]
    declared["a byte order mark"] = b"\xef\xbb\xbf" + declared["utf-8"]
    for name, raw in declared.items():
        with case(name):
            assert "name = 'Andr\u00e9'" in decode(raw)
    refused = {
        "no declaration": b"name = 'Andr\xe9'\n",
        "unknown": b"# coding: klingon\n",
        "untrue": b"# coding: utf-16\nab\n",
        "not text": b"# coding: hex\n00\n",
        "not of sources": b"# coding: punycode\n" + b"a" * 100_000 + b"-" + b"zz" * 100_000,
        "of hosts": b"# coding: idna\nx\n",
        "half a pair": b"# coding: unicode_escape\n'\\ud800'\n",
        "half a pair in UTF-7": b"# coding: utf-7\n'+2AA-'\n",
        "the end of all": b"# coding: undefined\n",
        "a mark of another encoding": b"\xef\xbb\xbf# coding: latin-1\n",
    }
    for name, raw in refused.items():
        with case(name), pytest.raises(NotText):
            decode(raw)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "hidden"])
def test_folders_without_python_are_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("x = 1\n", encoding="utf-8")
    elif kind == "empty":
        place.mkdir()
    elif kind == "hidden":
        (place / ".venv").mkdir(parents=True)
        (place / ".venv/a.py").write_text("x = 1\n", encoding="utf-8")
    unread = r"(is not a folder|holds no \.py files( outside 1 hidden folder)?)"
    with pytest.raises(UserError, match=rf"place {unread}; give a folder"):
        list_files(folder_config(place))


def test_a_missing_standard_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set stdlib to false"):
        stdlib_files(tmp_path)


def test_a_corpus_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="The corpus is empty"):
        parts(folder_config())


def test_parts_come_in_order_and_repeat_exactly(sources: Path) -> None:
    config = DataConfig(idioms=30, stdlib=False, folders=(sources,), seed=5)
    assert parts(config) == ("idioms", "folders")
    files = list_files(config)
    first, second = list(read(config, files)), list(read(config, files))
    assert first == second
    assert [found.part for found in first] == ["idioms"] * 30 + ["folders"] * 40
    other = list(read(config.replace(seed=6), files))
    assert [a == b for a, b in zip(first, other, strict=True)].count(True) < 45


def test_exact_duplicates_are_kept_once(sources: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "a.py").write_bytes((sources / "flat/module_00.py").read_bytes().replace(b"\n", b"\r\n"))
    (twin / "b.py").write_text("only = 'here'\n", encoding="utf-8")
    config = folder_config(sources, twin)
    survey = read_into_spool(config, list_files(config), tmp_path / "spool", silent)
    assert survey.skipped == [Skipped("folders", "twin/a.py", "duplicate", survey.entries[20].digest)]
    assert len(survey.entries) == 41
    read_back = {entry.name: text for entry, text in texts(tmp_path / "spool", survey.entries)}
    assert read_back["twin/b.py"] == "only = 'here'\n"
    assert read_back["sources/flat/module_00.py"] == (sources / "flat/module_00.py").read_text(encoding="utf-8")


def test_the_split_depends_on_the_documents_alone(sources: Path, tmp_path: Path) -> None:
    config = folder_config(sources)
    files = list_files(config)
    survey = read_into_spool(config, files, tmp_path / "one", silent)
    turned = read_into_spool(config, files[::-1], tmp_path / "two", silent)
    splits = hold_out(survey, ("folders",), 0.1)
    assert splits == hold_out(turned, ("folders",), 0.1)
    assert sorted(splits.values()) == ["train"] * 36 + ["validation"] * 4
    assert set(hold_out(survey, ("folders",), 0.0).values()) == {"train"}
    assert list(hold_out(survey, ("folders",), 0.001).values()).count("validation") == 1
    assert list(hold_out(survey, ("folders",), 0.999).values()).count("train") == 1


def test_the_tokenizer_never_sees_held_out_documents_and_stops_at_its_share(sources: Path, tmp_path: Path) -> None:
    config = folder_config(sources)
    survey = read_into_spool(config, list_files(config), tmp_path / "spool", silent)
    splits = hold_out(survey, ("folders",), 0.25)
    everything = tokenizer_sample(survey, ("folders",), splits, 10**9)
    assert [entry.name for entry in everything] == [e.name for e in survey.entries if splits[e.digest] == "train"]
    some = tokenizer_sample(survey, ("folders",), splits, 500)
    assert 500 <= sum(entry.bytes for entry in some) < 500 + max(entry.bytes for entry in survey.entries)
