"""Reads and writes stay where they belong: no device, no pipe, no file behind a link, modes by the umask."""

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cases import case
from soup import Recipe, make

from thinwire import artifact
from thinwire.artifact.tensors import write_tensors
from thinwire.config import read_record
from thinwire.data import Tokenizer
from thinwire.errors import UserError
from thinwire.files import open_regular, read_bytes, read_text
from thinwire.tasks import task_from_file
from thinwire.train.rates import read_rates

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and modes of POSIX systems")


@contextmanager
def within_seconds(seconds: int) -> Iterator[None]:
    """An error where a read waits for ever."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def special(folder: Path) -> Iterator[dict[str, Path]]:
    """One of each thing that is no regular file, by what it is called."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        place = Path(tempfile.mkdtemp()) / "socket"  # such an address is short
        listening.bind(str(place))
        yield {"a device": Path("/dev/zero"), "a pipe": folder / "fifo", "a socket": place, "a folder": folder}


READERS: dict[str, Callable[[Path], object]] = {
    "config": Recipe.load,
    "record": lambda path: read_record(Recipe, path, "cannot be read"),
    "meta": artifact.read_meta,
    "tokenizer": Tokenizer.load,
    "rates": read_rates,
    "task": task_from_file,
}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with special(tmp_path) as things, within_seconds(20):
        for what, path in things.items():
            for name, read in READERS.items():
                with case(what, name), pytest.raises(UserError, match=r"cannot be read|is not a file"):
                    read(path)
            link = tmp_path / f"link to {what}"
            link.symlink_to(path)
            with case(what), pytest.raises(OSError, match=f"it is {what}, not a regular file"):
                open_regular(link)


def test_sizes_and_paths_have_bounds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf12345")
    assert read_bytes(tmp_path / "file", 8) == b"\xef\xbb\xbf12345"
    assert read_text(tmp_path / "file") == "12345"
    with pytest.raises(OSError, match="it is larger than 0 MiB"):
        read_bytes(tmp_path / "file", 7)
    if Path("/proc/cpuinfo").exists():  # a file that states no size
        with pytest.raises(OSError, match="it is larger than 0 MiB"):
            read_bytes("/proc/cpuinfo", 7)
        assert len(read_bytes("/proc/self/status")) > 100
    for path in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="cannot hold such characters"):
            open_regular(path)
    (tmp_path / "config.json").write_text('\ufeff{"size": 4}')  # a mark at the start is no part of JSON
    assert Recipe.load(tmp_path / "config.json") == Recipe(size=4)


def enter(folder: Path) -> None:
    with artifact.sole_writer(folder):
        raise AssertionError


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    lock, mine = tmp_path / "work/.lock", tmp_path / "mine"
    mine.write_text("mine")
    for target in (mine, tmp_path / "nothing", tmp_path, Path("/dev/null")):
        lock.symlink_to(target)
        with case(target), pytest.raises(UserError, match="is a link, which is no lock; delete"):
            enter(tmp_path / "work")
        lock.unlink()
    assert mine.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()
    os.mkfifo(lock)
    with within_seconds(20), pytest.raises(UserError, match="which is no lock"):
        enter(tmp_path / "work")
    lock.unlink()
    lock.write_text("a note")
    with artifact.sole_writer(tmp_path / "work"):
        assert lock.read_text() == "a note"


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    with special(tmp_path) as things:
        for what, path in things.items():
            link = tmp_path / f"link to {what}"
            link.symlink_to(path)
            for out in (path, link):
                before = os.lstat(out)
                with case(what, out), pytest.raises(UserError, match=f"is {what}; give the name of a file for --out"):
                    artifact.write_text(out, "page")
                assert os.path.samestat(before, os.lstat(out))
    if Path("/proc/self/fd").exists():
        with (tmp_path / "redirected").open("w") as file:
            descriptor = Path(f"/proc/self/fd/{file.fileno()}")
            (tmp_path / "stdout").symlink_to(descriptor)
            for out in (descriptor, tmp_path / "stdout"):
                with case(out), pytest.raises(UserError, match="is a file that a process has open"):
                    artifact.write_text(out, "page")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "page").symlink_to(tmp_path / "mine")
    artifact.write_text(tmp_path / "page", "page")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "page").read_text() == "page"


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
def test_modes_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with artifact.replacing(tmp_path / "made") as scratch:
            make(scratch)
            write_tensors(scratch / "means.safetensors", {"a": torch.zeros(2)})
    finally:
        os.umask(before)
    for path in [tmp_path / "made", *(tmp_path / "made").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Within the block, this process may not read what is at `path`."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


def test_unreadable_is_not_called_altered() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        made = Path(place) / "made"
        make(made)
        for name in ("", "meta.json", "config.json", "sub", "sub/data.txt"):
            with case(name), unreadable(made / name), pytest.raises(UserError, match=r"cannot be read \(Permission"):
                artifact.open_artifact(made, "soup")
        artifact.open_artifact(made, "soup")


def test_a_probe_that_a_killed_process_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", lambda path: None)
        artifact.check_place(tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1
    artifact.sweep(tmp_path, "out")
    assert not list(tmp_path.iterdir())


def test_folders_with_other_files_are_not_replaced(tmp_path: Path) -> None:
    """A config.json alone makes no artefact: what else a folder holds would be lost with it."""
    for number, meta in enumerate((None, "// notes\n{}", '{"format": "soup"')):  # none, of another program, cut short
        with case(meta):
            folder = tmp_path / str(number)
            (folder / "sub").mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            if meta is not None:
                (folder / "meta.json").write_text(meta)
            artifact.refuse_foreign(folder, "soup")
            for kind in ("soup", "model", None):
                (folder / "thesis.txt").write_text("years of work")
                with pytest.raises(UserError, match="choose another --out"):
                    artifact.refuse_foreign(folder, kind)
            (folder / "thesis.txt").unlink()
            with pytest.raises(UserError, match="choose another --out"):
                artifact.refuse_foreign(folder, "model")
