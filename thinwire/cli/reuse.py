"""What a command took as it was: said in one line on stderr, and kept for --json."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.display import visible
from thinwire.progress import Note, Report, Reused

FORCE = "--force makes it again"
OTHER_PLACE = "Another --out makes a new one"


@dataclass
class Watched:
    """A report that writes notes as lines of their own and remembers the folders that were reused."""

    report: Report
    remedy: str = FORCE
    """How to make finished work again, in a phrase."""
    folders: list[Path] = field(default_factory=list)
    """Folders whose finished work was taken."""

    def __call__(self, done: int, total: int, status: str) -> None:
        """Pass progress on, and write a note in place of it."""
        if not isinstance(status, Note):
            self.report(done, total, status)
            return
        line = str(status)
        if isinstance(status, Reused):
            self.folders.append(status.folder)
            line = f"{status.folder} is finished already; reused. {self.remedy}."
        sys.stderr.write(f"{visible(line)}\n")
        sys.stderr.flush()

    @property
    def reused(self) -> bool:
        """Whether any finished work was taken."""
        return bool(self.folders)
