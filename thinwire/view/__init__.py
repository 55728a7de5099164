"""The page: a circuit drawn, its nodes' texts and its losses, in one HTML file that opens from anywhere."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.view.build import Case as Case
    from thinwire.view.build import Origin as Origin
    from thinwire.view.build import payload_from as payload_from
    from thinwire.view.config import PageConfig as PageConfig
    from thinwire.view.config import SampleConfig as SampleConfig
    from thinwire.view.figure import draw as draw
    from thinwire.view.page import render as render
    from thinwire.view.page import write as write
    from thinwire.view.payload import Payload as Payload
    from thinwire.view.portraits import portrait as portrait

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Case": "build",
        "Origin": "build",
        "PageConfig": "config",
        "Payload": "payload",
        "SampleConfig": "config",
        "draw": "figure",
        "payload_from": "build",
        "portrait": "portraits",
        "render": "page",
        "write": "page",
    },
)
