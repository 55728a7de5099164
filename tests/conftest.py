"""What every room shares: one thread a process, and one tiny tokens artefact, built once."""

import os

import pytest
import torch

from thinwire.data import DataConfig, Tokens, build

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which any test may be the first to do
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # tests are too small to share out; busy cores would wait


@pytest.fixture(scope="session")
def tiny_tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """About 46 thousand tokens of 200 idioms, with a vocabulary of 300."""
    config = DataConfig(idioms=200, stdlib=False, vocab_size=300)
    return build(config, tmp_path_factory.mktemp("tiny") / "tokens")


@pytest.fixture(scope="session")
def other_tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokens with the same vocabulary size from another seed."""
    config = DataConfig(idioms=200, stdlib=False, vocab_size=300, seed=1)
    return build(config, tmp_path_factory.mktemp("other") / "tokens")
