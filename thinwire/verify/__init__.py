"""Faithfulness checks on a circuit: sufficiency, resampling, necessity, and comparison with random circuits."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.verify.checks import CHECKS as CHECKS
    from thinwire.verify.checks import check as check
    from thinwire.verify.config import VerifyConfig as VerifyConfig
    from thinwire.verify.inputs import CheckInput as CheckInput
    from thinwire.verify.measurement import Curve as Curve
    from thinwire.verify.measurement import Headline as Headline
    from thinwire.verify.measurement import Interval as Interval
    from thinwire.verify.measurement import Measurement as Measurement
    from thinwire.verify.scrubbing import Hypothesis as Hypothesis
    from thinwire.verify.scrubbing import Scrubber as Scrubber
    from thinwire.verify.verdict import Verdict as Verdict
    from thinwire.verify.verdict import finished_verdict as finished_verdict
    from thinwire.verify.verdict import verify as verify

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CHECKS": "checks",
        "CheckInput": "inputs",
        "Curve": "measurement",
        "Headline": "measurement",
        "Hypothesis": "scrubbing",
        "Interval": "measurement",
        "Measurement": "measurement",
        "Scrubber": "scrubbing",
        "Verdict": "verdict",
        "VerifyConfig": "config",
        "check": "checks",
        "finished_verdict": "verdict",
        "verify": "verdict",
    },
)
