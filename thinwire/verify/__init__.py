"""Checks on a circuit: is it enough, is it needed, would any circuit of its size do."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.verify.config import VerifyConfig as VerifyConfig
    from thinwire.verify.subject import CHECKS as CHECKS
    from thinwire.verify.subject import Row as Row
    from thinwire.verify.subject import Subject as Subject
    from thinwire.verify.verdict import Verdict as Verdict
    from thinwire.verify.verdict import finished_verdict as finished_verdict
    from thinwire.verify.verdict import verify as verify

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CHECKS": "subject",
        "Row": "subject",
        "Subject": "subject",
        "Verdict": "verdict",
        "VerifyConfig": "config",
        "finished_verdict": "verdict",
        "verify": "verdict",
    },
)
