"""The command line: `thinwire VERB …`. Verbs are loaded one at a time, so that `--help` is instant."""

from thinwire.cli.main import main

__all__ = ["main"]
