from pathlib import Path

import numpy as np
import pytest
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.data.shards import ShardWriter, Stream
from thinwire.errors import UserError

DOCUMENTS = [[5, 6, 7], [65_535], [], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10]]
WHOLE = [0, 5, 6, 7, 0, 65_535, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10]


def write(folder: Path, documents: list[list[int]], shard_tokens: int) -> list[str]:
    with ShardWriter(folder, "part.train", shard_tokens) as writer:
        for ids in documents:
            writer.add(ids, 0)
    return writer.files


@pytest.mark.parametrize(("shard_tokens", "n_shards"), [(100, 1), (9, 3), (6, 4), (1, 5)])
def test_documents_come_back_whole_from_any_shards(tmp_path: Path, shard_tokens: int, n_shards: int) -> None:
    files = write(tmp_path, DOCUMENTS, shard_tokens)
    assert files == [*(f"part.train.{i:05d}.bin" for i in range(n_shards)), "part.train.offsets.npy"]
    stream = Stream.open(tmp_path, "part.train")
    assert (stream.n_tokens, stream.n_documents) == (len(WHOLE), 5)
    assert stream.offsets.tolist() == [0, 4, 6, 7, 16, 19]
    for index, ids in enumerate(DOCUMENTS):
        assert stream.document(index).tolist() == [0, *ids]
    for start in range(len(WHOLE)):
        for stop in range(start, len(WHOLE) + 1):
            assert stream.read(start, stop - start).tolist() == WHOLE[start:stop]


@given(
    st.lists(st.lists(st.integers(1, 65_535), max_size=12), max_size=12),
    st.integers(1, 30),
)
@settings(max_examples=40, deadline=None)
def test_any_documents_in_any_shards(tmp_path_factory: pytest.TempPathFactory, documents, shard_tokens) -> None:
    folder = tmp_path_factory.mktemp("shards")
    files = write(folder, documents, shard_tokens)
    stream = Stream.open(folder, "part.train")
    assert stream.read(0, stream.n_tokens).tolist() == [i for ids in documents for i in [0, *ids]]
    sizes = [(folder / name).stat().st_size // 2 for name in files[:-1]]
    assert all(size <= max(shard_tokens, 13) for size in sizes)


def test_files_are_little_endian_uint16(tmp_path: Path) -> None:
    write(tmp_path, [[1, 258]], 100)
    assert (tmp_path / "part.train.00000.bin").read_bytes() == b"\x00\x00\x01\x00\x02\x01"
    assert np.load(tmp_path / "part.train.offsets.npy").dtype == np.dtype("<i8")


def test_an_empty_split_has_no_shard(tmp_path: Path) -> None:
    assert write(tmp_path, [], 100) == ["part.train.offsets.npy"]
    stream = Stream.open(tmp_path, "part.train")
    assert (stream.n_tokens, stream.n_documents) == (0, 0)
    assert stream.read(0, 0).tolist() == []


def test_ids_beyond_two_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Token 65536 does not fit"):
        write(tmp_path, [[1], [65_536]], 100)


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="build the tokens again"):
        Stream.open(tmp_path, "part.train")
    write(tmp_path, DOCUMENTS, 9)
    offsets = np.load(tmp_path / "part.train.offsets.npy")
    wrong = {
        "falls": [0, 6, 4, 7, 16, 19],
        "rests": [0, 4, 4, 7, 16, 19],
        "lies before": [0, -4, 6, 7, 16, 19],
        "lies behind": [0, 4, 6, 7, 99, 19],
        "fractions": offsets.astype(float),
        "another width": offsets.astype("<i4"),
        "a table": offsets[None],
        "nothing": offsets[:0],
        "objects": np.array([*offsets[:-1], None]),
    }
    for name, values in wrong.items():
        np.save(tmp_path / "part.train.offsets.npy", values, allow_pickle=True)
        with case(name), pytest.raises(UserError, match="build the tokens again"):
            Stream.open(tmp_path, "part.train")
    np.save(tmp_path / "part.train.offsets.npy", offsets)
    whole = (tmp_path / "part.train.offsets.npy").read_bytes()
    for shape in (b"(10**9,)", b"(999999999999,)", b"(2**70,)", b"(-6,)", b"(6", b"(True,)"):
        with case(shape):
            found = whole.replace(b"(6,), }" + b" " * (len(shape) - 4), shape + b", }")[: len(whole)]
            assert found != whole
            (tmp_path / "part.train.offsets.npy").write_bytes(found)
            with pytest.raises(UserError, match="build the tokens again"):
                Stream.open(tmp_path, "part.train")
    (tmp_path / "part.train.offsets.npy").write_bytes(whole)
    (tmp_path / "part.train.00001.bin").unlink()
    with pytest.raises(UserError, match="does not fit its shards"):
        Stream.open(tmp_path, "part.train")
    (tmp_path / "part.train.offsets.npy").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        Stream.open(tmp_path, "part.train")
