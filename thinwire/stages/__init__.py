"""Stages from folder to folder: each reads its parents' artefacts, reuses what is finished, and writes its own."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.stages.bridge import bridge_stage as bridge_stage
    from thinwire.stages.bridged import Bridged as Bridged
    from thinwire.stages.ends import Ends as Ends
    from thinwire.stages.prune import finished_circuit as finished_circuit
    from thinwire.stages.prune import prune_stage as prune_stage
    from thinwire.stages.steer import steer_stage as steer_stage
    from thinwire.stages.train import Watching as Watching
    from thinwire.stages.train import train_stage as train_stage
    from thinwire.stages.transfer import transfer_stage as transfer_stage
    from thinwire.stages.verify import Also as Also
    from thinwire.stages.verify import tokens_near as tokens_near
    from thinwire.stages.verify import verify_in as verify_in
    from thinwire.stages.verify import verify_stage as verify_stage
    from thinwire.stages.view import picture_stage as picture_stage
    from thinwire.stages.view import view_stage as view_stage
    from thinwire.stages.workspace import Opened as Opened
    from thinwire.stages.workspace import Workspace as Workspace

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Also": "verify",
        "Bridged": "bridged",
        "Ends": "ends",
        "Opened": "workspace",
        "Watching": "train",
        "Workspace": "workspace",
        "bridge_stage": "bridge",
        "finished_circuit": "prune",
        "picture_stage": "view",
        "prune_stage": "prune",
        "steer_stage": "steer",
        "tokens_near": "verify",
        "train_stage": "train",
        "transfer_stage": "transfer",
        "verify_in": "verify",
        "verify_stage": "verify",
        "view_stage": "view",
    },
)
