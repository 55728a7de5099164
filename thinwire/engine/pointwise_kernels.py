"""CPU kernels of what sublayers do to single tokens, on feature-major activations: RMSNorm, and holding nodes."""

import numpy as np
from numba import prange

from thinwire.engine.ahead import AHEAD, read_ahead, write_ahead
from thinwire.engine.jit import inner, kernel, summing
from thinwire.engine.product_kernels import clear, has_nonzero

TOKENS = 64
"""Tokens that a thread takes at once."""


@kernel
def rms_norm(x, gain, epsilon, out, scales):
    """out = x [width, n] · scales [n] · gain [width], the scales 1 / sqrt(mean square of a token + epsilon)."""
    n = x.shape[1]
    for block in prange((n + TOKENS - 1) // TOKENS):
        _norm_block(x, gain, epsilon, block * TOKENS, min(n, (block + 1) * TOKENS), out, scales)


@inner
def _norm_block(x, gain, epsilon, begin, end, out, scales):
    """`rms_norm` for a block of tokens."""
    scale = scales[begin:end]
    _add_squares(x, begin, end, scale)
    scale_of_squares(scale, len(x), epsilon, scale)
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        write_ahead(out, i + AHEAD, begin, end)
        row, normed, by = x[i, begin:end], out[i, begin:end], gain[i]
        for t in range(len(scale)):
            normed[t] = row[t] * scale[t] * by


@inner
def _add_squares(x, begin, end, squares):
    """The squares of a block of tokens, added up."""
    clear(squares)
    for i in range(len(x)):
        read_ahead(x, i + AHEAD, begin, end)
        row = x[i, begin:end]
        for t in range(len(squares)):
            squares[t] += row[t] * row[t]


@inner
def scale_of_squares(squares, width, epsilon, scales):
    """The scales of tokens whose squares add up to so much."""
    for t in range(len(scales)):
        scales[t] = np.float32(1) / np.sqrt(squares[t] / np.float32(width) + epsilon)


@kernel
def rms_norm_backward(x, gain, scales, grad, d_x):
    """Gradient of `rms_norm` with respect to x [width, n]."""
    n = x.shape[1]
    for block in prange((n + TOKENS - 1) // TOKENS):
        along = np.zeros(TOKENS, np.float32)
        _norm_block_backward(x, gain, scales, grad, block * TOKENS, min(n, (block + 1) * TOKENS), along, d_x)


@inner
def _norm_block_backward(x, gain, scales, grad, begin, end, along, d_x):
    """The same for a block of tokens; `along`, how far the gradient goes along x, is given as zeros."""
    width, scale = x.shape[0], scales[begin:end]
    for i in range(width):
        read_ahead(x, i + AHEAD, begin, end)
        read_ahead(grad, i + AHEAD, begin, end)
        row, given, by = x[i, begin:end], grad[i, begin:end], gain[i]
        for t in range(len(scale)):
            along[t] += row[t] * given[t] * by
    for t in range(len(scale)):
        along[t] *= scale[t] * scale[t] / np.float32(width)
    for i in range(width):
        read_ahead(x, i + AHEAD, begin, end)
        read_ahead(grad, i + AHEAD, begin, end)
        write_ahead(d_x, i + AHEAD, begin, end)
        row, given, made, by = x[i, begin:end], grad[i, begin:end], d_x[i, begin:end], gain[i]
        for t in range(len(scale)):
            made[t] = scale[t] * (given[t] * by - row[t] * along[t])


@summing
def rms_norm_gain_gradient(x, scales, grad, d_gain):
    """Gradient of `rms_norm` with respect to the gain [width]."""
    for i in prange(x.shape[0]):
        row, given = x[i], grad[i]
        total = np.float32(0)
        for t in range(x.shape[1]):
            total += row[t] * scales[t] * given[t]
        d_gain[i] = total


@kernel
def hold(x, mean, mask, out):
    """out = mean [width] + mask [trials, width] · (x - mean), for x [width, trials, n], n tokens a trial."""
    width, trials, n = x.shape
    for i in prange(width):
        for trial in range(trials):
            kept, constant = mask[trial, i], mean[i]
            row, held = x[i, trial], out[i, trial]
            if kept == 1:
                held[:] = row
            elif kept == 0:
                held[:] = constant
            else:
                for t in range(n):
                    held[t] = constant + kept * (row[t] - constant)


@summing
def hold_backward(x, mean, mask, grad, d_x, d_mask):
    """Gradients of `hold` with respect to x and the mask."""
    width, trials, n = x.shape
    for i in prange(width):
        for trial in range(trials):
            kept, constant = mask[trial, i], mean[i]
            row, given, made = x[i, trial], grad[i, trial], d_x[i, trial]
            total = np.float32(0)
            if not has_nonzero(given):
                clear(made)
            else:
                for t in range(n):
                    total += given[t] * (row[t] - constant)
                    made[t] = kept * given[t]
            d_mask[trial, i] = total
