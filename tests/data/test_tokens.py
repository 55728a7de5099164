import subprocess
import sys

import numpy as np
import pytest
from cases import case

from thinwire.data import Tokens
from thinwire.data.tokens import _uniform
from thinwire.errors import UserError


def whole(tokens: Tokens, part: str, split: str) -> np.ndarray:
    """Every token of a part and split, read with plain NumPy from the sorted shard files."""
    paths = sorted(tokens.artifact.path.glob(f"{part}.{split}.*.bin"))
    return np.concatenate([np.fromfile(path, dtype="<u2") for path in paths]).astype(np.int64)


def holds(sequence: np.ndarray, window: np.ndarray) -> bool:
    """Whether a window occurs in a sequence."""
    return np.ascontiguousarray(sequence).tobytes().find(np.ascontiguousarray(window).tobytes()) >= 0


def test_every_token_is_where_the_statistics_say(built: Tokens) -> None:
    assert built.parts == ("idioms", "stdlib")
    for row in built.stats.parts:
        tokens = whole(built, row.part, row.split)
        assert len(tokens) == row.tokens == built.n_tokens(row.part, row.split)
        assert int((tokens == built.tokenizer.end_of_text).sum()) == row.documents
        assert tokens[0] == built.tokenizer.end_of_text
        texts = built.tokenizer.decode(tokens[tokens != 0].tolist())
        assert len(texts.encode()) == row.bytes


def test_batches_are_a_pure_function_of_seed_and_step(built: Tokens) -> None:
    again = Tokens.open(built.artifact.path)
    batch = built.batch(7, 3, 16, 64)
    assert batch.shape == (16, 65)
    assert batch.dtype == np.int64
    assert np.array_equal(batch, built.batch(7, 3, 16, 64))
    assert np.array_equal(batch, again.batch(7, 3, 16, 64))
    assert not np.array_equal(batch, built.batch(8, 3, 16, 64))
    assert not np.array_equal(batch, built.batch(7, 4, 16, 64))
    assert not np.array_equal(built.batch(1, 2, 16, 64), built.batch(2, 1, 16, 64))
    assert np.array_equal(batch[:5], built.batch(7, 3, 5, 64))


def test_the_draw_is_pinned() -> None:
    numbers = _uniform(1, 2, (3,))
    raw = np.random.Philox(key=np.array([1, 2], dtype=np.uint64)).random_raw(3)
    assert numbers.tolist() == [int(word) // 2**11 / 2**53 for word in raw]
    many = _uniform(0, 0, (20_000,))
    assert 0 <= many.min() < many.max() < 1
    assert abs(many.mean() - 0.5) < 0.01


def test_windows_are_training_text_of_the_parts_by_weight(built: Tokens) -> None:
    train = {part: whole(built, part, "train") for part in built.parts}
    batch = np.concatenate([built.batch(step, 0, 32, 48, {"idioms": 3, "stdlib": 1}) for step in range(10)])
    from_idioms = np.array([holds(train["idioms"], window) for window in batch])
    from_stdlib = np.array([holds(train["stdlib"], window) for window in batch])
    assert (from_idioms | from_stdlib).all()
    assert 0.67 < from_idioms.mean() < 0.83
    turned = built.batch(9, 0, 32, 48, {"stdlib": 0.25, "idioms": 0.75})
    assert np.array_equal(turned, batch[-32:])
    only = built.batch(0, 0, 40, 48, {"stdlib": 1.0, "idioms": 0})
    assert all(holds(train["stdlib"], window) for window in only)


def test_windows_start_documents_as_often_as_asked(built: Tokens) -> None:
    for probability, low, high in [(0.0, 0.0, 0.05), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)]:
        with case(probability, low, high):
            config = built.config.replace(document_start=probability)
            tokens = Tokens(built.artifact, config, built.tokenizer, built.stats, built.streams)
            first = np.concatenate([tokens.batch(step, 1, 50, 16)[:, 0] for step in range(10)])
            assert low <= (first == 0).mean() <= high


def test_windows_reach_the_first_and_the_last_token(built: Tokens) -> None:
    stream = built.streams["idioms", "validation"]
    length = stream.n_tokens - 1
    starts = {built._window_start(stream, length, 1.0, place) for place in (0.0, 0.49, 0.51, 1 - 2**-53)}
    assert starts == {0, 1}
    assert {built._window_start(stream, length, 0.0, place) for place in (0.0, 1 - 2**-53)} == {0}


def test_validation_windows_spread_and_never_predict_a_token_twice(built: Tokens) -> None:
    held_out = whole(built, "stdlib", "validation")
    rows = built.validation("stdlib", 640, 64)
    assert rows.shape == (10, 65)
    assert np.array_equal(rows, built.validation("stdlib", 640, 64))
    starts = [next(s for s in range(0, len(held_out), 64) if np.array_equal(held_out[s : s + 65], r)) for r in rows]
    assert np.diff(starts).min() >= 64
    assert max(starts) > 0.8 * len(held_out)
    every = (len(held_out) - 1) // 64
    full = built.validation("stdlib", every * 64, 64)
    assert np.array_equal(full[:, 1:].ravel(), held_out[1 : every * 64 + 1])
    assert np.array_equal(full[:, :-1].ravel(), held_out[: every * 64])


def test_document_samples_are_different_whole_documents(built: Tokens) -> None:
    sample = built.documents("idioms", "train", 50, seed=1)
    assert len({document.tobytes() for document in sample}) == 50
    train = whole(built, "idioms", "train")
    for document in sample:
        assert document[0] == 0
        assert (document[1:] != 0).all()
        assert holds(train, document)
    again = built.documents("idioms", "train", 50, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(sample, again, strict=True))
    assert sample[0].tobytes() != built.documents("idioms", "train", 1, seed=2)[0].tobytes()
    everything = built.documents("stdlib", "validation", 10**9, seed=0)
    assert sum(map(len, everything)) == built.n_tokens("stdlib", "validation")


def test_no_document_is_in_both_splits(built: Tokens) -> None:
    for part in built.parts:
        train, held_out = (
            {document.tobytes() for document in built.documents(part, split, 10**9, 0)}
            for split in ("train", "validation")
        )
        assert train
        assert held_out
        assert not train & held_out


def test_requests_that_cannot_be_met_are_refused(built: Tokens) -> None:
    with pytest.raises(UserError, match="no part 'folders'; its parts are idioms, stdlib"):
        built.batch(0, 0, 1, 8, {"folders": 1})
    with pytest.raises(UserError, match="No part has a positive weight"):
        built.batch(0, 0, 1, 8, {"idioms": 0})
    with pytest.raises(UserError, match="No part has a positive weight"):
        built.batch(0, 0, 1, 8, {})
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="The weight of idioms"):
            built.batch(0, 0, 1, 8, {"idioms": weight})
    with pytest.raises(UserError, match="There is no split 'test'"):
        built.n_tokens("idioms", "test")
    with pytest.raises(UserError, match="The train split of idioms has"):
        built.batch(0, 0, 1, 10**9, {"idioms": 1})
    with pytest.raises(UserError, match="The validation split of idioms has"):
        built.validation("idioms", 10**9, 64)
    with pytest.raises(UserError, match="Seed -1"):
        built.batch(0, -1, 1, 8)


def test_the_room_does_without_torch() -> None:
    script = "import sys, thinwire.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
