"""One small build for the whole room: the real idioms and the real standard library."""

from pathlib import Path

import pytest

from thinwire.data import DataConfig, Tokens, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokens of 2,000 idioms and the standard library, in shards small enough that there are several."""
    config = DataConfig(idioms=2000, shard_tokens=400_000)
    return build(config, tmp_path_factory.mktemp("data") / "tokens")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of forty small, different Python files, two folders deep."""
    root = tmp_path / "sources"
    for i in range(40):
        path = root / ("deep/er" if i % 2 else "flat") / f"module_{i:02d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'def call_{i}(value):\n    print("number {i}")\n    return [value, {i}]\n', encoding="utf-8")
    return root
