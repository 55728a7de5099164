"""A circuit that runs as its own small graph, equal to the model in which everything else is ablated to its mean.

The masked model computes every channel and then replaces almost all by constants. Here only the varying channels are
computed: kept nodes, and the channels that their edges reach, which compete in AbsTopK. There are three steps:
1. `parts`: constants are folded into biases, and those that AbsTopK compares with into a few bars.
2. `tables`: for each token, when it first occurs, the same is done for the part of the residual stream that the circuit
   does not write.
3. `kernel`: prompts run in parallel, over the kept edges.
"""

import numpy as np
import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.compact.kernel import Prompts, Results, run
from thinwire.compact.parts import Compiler
from thinwire.compact.program import flatten
from thinwire.compact.tables import Ends, Logits, Streams
from thinwire.engine.jit import use_threads
from thinwire.engine.spmm.operators import check_tokens
from thinwire.errors import UserError
from thinwire.model.norms import ScaleRecorder
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer
from thinwire.sites import Node
from thinwire.tasks import REST, PairBatch, last_logits, margin

PARTS_PER_THREAD = 4
"""Parts that the prompts of a call are divided into, so that no thread waits long for one with longer prompts."""


class CompactCircuit:
    """A circuit of a model that runs in microseconds per prompt; results equal the masked model's up to rounding.

    The masked model is `circuit.cut_model(model)` under `circuit.to_tap()`, in float32. Where two magnitudes differ
    only by rounding, AbsTopK may keep the other one. The tables for a token are computed when a prompt first contains
    it, so that first calls are slower. A circuit with frozen norms runs the whole model for their scales.
    """

    @own_modes()
    @torch.no_grad()
    def __init__(self, circuit: Circuit, model: Transformer) -> None:
        """Compile a circuit of `model`, the whole model.

        Raises UserError when the model has another shape, or when AbsTopK selects from its residual stream.
        """
        circuit.check_model(model)
        if model.config.active_residual:
            raise UserError(
                "A circuit of a model with active_residual cannot run compactly, since every channel of the residual "
                "stream then competes with every other; run circuit.cut_model(model) under circuit.to_tap()."
            )
        self.nodes: tuple[Node, ...] = tuple(sorted(circuit.nodes))
        """Kept nodes, in the order of `activations`."""
        self._model, self._frozen = model, circuit.frozen_norms
        compiler = Compiler(self.nodes, circuit.means, circuit.cut_model(model))
        flattened = flatten(compiler)
        self._program = flattened.program
        self._points = [read.point for read in flattened.reads]
        self._streams = Streams(compiler, flattened.reads)
        self._logits = Logits(compiler, self._streams)

    @own_modes()
    @torch.no_grad()
    def margins(self, batch: PairBatch) -> Tensor:
        """Log-odds of the right answers, float32 [2n] as from `thinwire.tasks.margin`, not calibrated.

        Raises UserError for prompts longer than the context, IndexError for invalid tokens or last positions.
        """
        results = self._run(batch, everywhere=False)
        ends = Ends(results.written, results.scale)
        last, target, foil = (x.cpu().numpy() for x in (batch.last, batch.target, batch.foil))
        slots = self._streams.slots(batch.tokens.cpu().numpy())[np.arange(len(last)), last]
        if (target == REST).any() or (foil == REST).any():
            return margin(torch.from_numpy(self._logits.whole(slots, ends)), batch.to("cpu"))
        return torch.from_numpy(self._logits.margins(slots, target, foil, ends))

    @own_modes()
    @torch.no_grad()
    def activations(self, batch: PairBatch) -> Tensor:
        """Values of the kept nodes at every position, float32 [2n, pos, node]; zero past the ends of prompts.

        Raises UserError for prompts longer than the context, IndexError for invalid tokens or last positions.
        """
        return torch.from_numpy(self._run(batch, everywhere=True).kept)

    def _run(self, batch: PairBatch, everywhere: bool) -> Results:
        rows, length = batch.tokens.shape
        if length > self._model.config.context:
            raise UserError(
                f"A prompt of {length} tokens does not fit the context of {self._model.config.context}; shorten it."
            )
        check_tokens(batch.tokens, self._model.config.vocab_size)
        tokens, last = batch.tokens.cpu().numpy(), batch.last.cpu().numpy()
        if len(last) != rows or (rows and not 0 <= last.min() <= last.max() < length):
            raise IndexError("some prompts have a last position outside the prompt")
        scales = self._scales(batch, everywhere) if self._frozen else np.zeros((0, 0, 0), np.float32)
        prompts = Prompts(self._streams.rows(tokens), last, scales)
        results = Results(
            kept=np.zeros((rows if everywhere else 0, length, len(self.nodes)), np.float32),
            written=np.empty((rows, self._program.n_written), np.float32),
            scale=np.empty(rows, np.float32),
        )
        use_threads()
        n_parts = min(rows, PARTS_PER_THREAD * torch.get_num_threads())
        run(self._program, self._streams.tables, prompts, everywhere, results, n_parts)
        return results

    def _scales(self, batch: PairBatch, everywhere: bool) -> np.ndarray:
        """The scales of the whole model's norms, float32 [read, prompt, pos]; 1 at positions that are not used."""
        recorder = ScaleRecorder()
        if everywhere:
            self._model(batch.tokens, norms=recorder)
        else:
            last_logits(self._model, batch, norms=recorder)
        rows, length = batch.tokens.shape
        scales = torch.ones(len(self._points), rows, length, dtype=torch.float32, device="cpu")
        for read, point in enumerate(self._points):
            found = recorder.scales[point].float().cpu()[..., 0]
            if found.shape[1] == length:
                scales[read] = found
            else:
                scales[read, torch.arange(rows, dtype=torch.int64, device="cpu"), batch.last.cpu()] = found[:, 0]
        return scales.numpy()
