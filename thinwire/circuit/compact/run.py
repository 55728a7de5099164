"""A circuit that runs as its own small graph, exact against the model in which all else is held at its mean.

Where the masked model computes every channel and then sets almost all to constants, here only what varies is computed:
kept nodes, and beside them the channels that their wires reach, which compete in AbsTopK. In three steps:
1. `parts`: constants are folded into biases, and those that AbsTopK compares with into a few bars;
2. `tables`: so is, for each token when it is first met, all of the residual stream that the circuit does not write;
3. `kernel`: prompts run in parallel, over the kept wires.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from thinwire.circuit.compact.kernel import run
from thinwire.circuit.compact.parts import Compiler
from thinwire.circuit.compact.program import flatten
from thinwire.circuit.compact.tables import Ends, Logits, Streams
from thinwire.engine.jit import use_threads
from thinwire.engine.spmm.operators import check_tokens
from thinwire.errors import UserError
from thinwire.model.norms import ScaleRecorder
from thinwire.model.transformer import Transformer
from thinwire.sites import Node
from thinwire.tasks import REST, PairBatch, last_logits, margin

if TYPE_CHECKING:
    from thinwire.circuit.circuit import Circuit


class CompactCircuit:
    """What `Circuit.compact` makes. Results are those of the masked model in float32, up to rounding.

    Magnitudes that are equal but for rounding may swap places in AbsTopK. The tables for a token are made when a prompt
    first has it, so that first calls are slower. A circuit with frozen norms runs the whole model for their scales.
    """

    @torch.no_grad()
    def __init__(self, circuit: "Circuit", model: Transformer) -> None:
        """`model` is the whole one. Raises UserError for models whose residual stream AbsTopK selects from."""
        circuit.check_model(model)
        if model.config.active_residual:
            raise UserError(
                "A circuit of a model with active_residual cannot run compactly, since every channel of the residual "
                "stream then competes with every other; run the cut model under its tap."
            )
        self.nodes: tuple[Node, ...] = tuple(sorted(circuit.nodes))
        """Kept nodes, in the order of `activations`."""
        self._model, self._frozen = model, circuit.frozen_norms
        made = Compiler(self.nodes, circuit.means, circuit.cut_model(model))
        reads, self._program = flatten(made)
        self._points = [read.point for read in reads]
        self._streams = Streams(made, reads)
        self._logits = Logits(made, self._streams)

    @torch.no_grad()
    def margins(self, batch: PairBatch) -> Tensor:
        """Log-odds of the right answers [2n], as `thinwire.tasks.margin` gives them, not calibrated.

        Raises UserError for prompts past the context, IndexError for tokens or last places that are none.
        """
        ends, _ = self._run(batch, everywhere=False)
        last, target, foil = (x.cpu().numpy() for x in (batch.last, batch.target, batch.foil))
        slots = self._streams.slots(batch.tokens.cpu().numpy())[np.arange(len(last)), last]
        if (target == REST).any() or (foil == REST).any():
            return margin(torch.from_numpy(self._logits.whole(slots, ends)), batch.to("cpu"))
        return torch.from_numpy(self._logits.margins(slots, target, foil, ends))

    @torch.no_grad()
    def activations(self, batch: PairBatch) -> Tensor:
        """What the kept nodes are at every position, float32 [2n, pos, node]; zero past the ends of prompts.

        Raises UserError for prompts past the context, IndexError for tokens or last places that are none.
        """
        return torch.from_numpy(self._run(batch, everywhere=True)[1])

    def _run(self, batch: PairBatch, everywhere: bool) -> tuple[Ends, np.ndarray]:
        rows, length = batch.tokens.shape
        if length > self._model.config.context:
            raise UserError(
                f"A prompt of {length} tokens does not fit the context of {self._model.config.context}; shorten it."
            )
        check_tokens(batch.tokens, self._model.config.vocab_size)
        tokens, last = batch.tokens.cpu().numpy(), batch.last.cpu().numpy()
        if len(last) != rows or (rows and not 0 <= last.min() <= last.max() < length):
            raise IndexError("there are prompts whose last token is not one of theirs")
        places = self._streams.places(tokens)
        program = self._program
        scales = self._scales(batch, everywhere) if self._frozen else np.zeros((0, 0, 0), np.float32)
        kept = np.zeros((rows if everywhere else 0, length, len(self.nodes)), np.float32)
        ends = Ends(np.empty((rows, program.n_written), np.float32), np.empty(rows, np.float32))
        use_threads()
        run(program, self._streams.tables, places, last, scales, everywhere, kept, ends.written, ends.scale)
        return ends, kept

    def _scales(self, batch: PairBatch, everywhere: bool) -> np.ndarray:
        """The scales of the whole model's norms, float32 [read, prompt, pos]; one where nothing asks for them."""
        seen = ScaleRecorder()
        if everywhere:
            self._model(batch.tokens, norms=seen)
        else:
            last_logits(self._model, batch, norms=seen)
        rows, length = batch.tokens.shape
        scales = torch.ones(len(self._points), rows, length)
        for place, point in enumerate(self._points):
            found = seen.scales[point].float().cpu()[..., 0]
            if found.shape[1] == length:
                scales[place] = found
            else:
                scales[place, torch.arange(rows), batch.last.cpu()] = found[:, 0]
        return scales.numpy()
