from pathlib import Path

import pytest

from thinwire.errors import UserError
from thinwire.view.figure import draw
from thinwire.view.payload import Payload


@pytest.mark.parametrize("task", [0, 3])
def test_a_picture_is_the_same_every_time(task: int, example: Payload, tmp_path: Path):
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    for path in (one, other):
        draw(example.tasks[task], example.vocab, path)
    assert one.read_bytes() == other.read_bytes()
    assert b"<script" not in one.read_bytes()
    assert b"</svg>" in one.read_bytes()


def test_a_png_is_a_png(example: Payload, tmp_path: Path):
    draw(example.tasks[0], example.vocab, tmp_path / "deep" / "quote.png")
    assert (tmp_path / "deep" / "quote.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(example: Payload, tmp_path: Path):
    with pytest.raises(UserError, match=r"end its name in \.svg, \.png or \.pdf"):
        draw(example.tasks[0], example.vocab, tmp_path / "quote.gif")
    with pytest.raises(UserError, match="no nodes to draw"):
        draw(example.tasks[2], example.vocab, tmp_path / "empty.svg")
    assert not list(tmp_path.iterdir())
