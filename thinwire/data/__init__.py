"""Corpus, tokenizer and token shards: from Python source to batches."""

from thinwire.data.build import build
from thinwire.data.config import DataConfig
from thinwire.data.tokenizer import Tokenizer
from thinwire.data.tokens import Stats, Tokens

__all__ = ["DataConfig", "Stats", "Tokenizer", "Tokens", "build"]
