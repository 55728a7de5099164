"""CPU kernels of what sublayers do to single tokens, on feature-major activations: RMSNorm, and ablating nodes."""

import numpy as np
from numba import prange

from thinwire.engine.jit import device_function, kernel, reassociating_kernel
from thinwire.engine.simd.prefetch import DISTANCE, prefetch_read, prefetch_write
from thinwire.engine.simd.rows import clear, has_nonzero

TOKENS = 64
"""Tokens that a thread computes together."""


@kernel
def rms_norm(x, gain, epsilon, out, scales):
    """out = x [width, n] · scales [n] · gain [width], the scales 1 / sqrt(mean square of a token + epsilon)."""
    n = x.shape[1]
    for block in prange((n + TOKENS - 1) // TOKENS):
        _norm_block(x, gain, epsilon, block * TOKENS, min(n, (block + 1) * TOKENS), out, scales)


@device_function
def _norm_block(x, gain, epsilon, begin, end, out, scales):
    """`rms_norm` for a block of tokens."""
    scale = scales[begin:end]
    _add_squares(x, begin, end, scale)
    scales_of_squares(scale, len(x), epsilon, scale)
    for i in range(len(x)):
        prefetch_read(x, i + DISTANCE, begin, end)
        prefetch_write(out, i + DISTANCE, begin, end)
        row, normed, by = x[i, begin:end], out[i, begin:end], gain[i]
        for t in range(len(scale)):
            normed[t] = row[t] * scale[t] * by


@device_function
def _add_squares(x, begin, end, squares):
    """squares = the sum of squares of each token of a block."""
    clear(squares)
    for i in range(len(x)):
        prefetch_read(x, i + DISTANCE, begin, end)
        row = x[i, begin:end]
        for t in range(len(squares)):
            squares[t] += row[t] * row[t]


@device_function
def scales_of_squares(squares, width, epsilon, scales):
    """scales = 1 / sqrt(squares / width + epsilon)."""
    for t in range(len(scales)):
        scales[t] = np.float32(1) / np.sqrt(squares[t] / np.float32(width) + epsilon)


@kernel
def rms_norm_backward(x, gain, scales, grad, d_x):
    """Gradient of `rms_norm` with respect to x [width, n]."""
    n = x.shape[1]
    for block in prange((n + TOKENS - 1) // TOKENS):
        along = np.zeros(TOKENS, np.float32)
        _norm_block_backward(x, gain, scales, grad, block * TOKENS, min(n, (block + 1) * TOKENS), along, d_x)


@device_function
def _norm_block_backward(x, gain, scales, grad, begin, end, along, d_x):
    """The same for a block of tokens; `along` [TOKENS], zeros before, is the part of the gradient along x."""
    width, scale = x.shape[0], scales[begin:end]
    for i in range(width):
        prefetch_read(x, i + DISTANCE, begin, end)
        prefetch_read(grad, i + DISTANCE, begin, end)
        row, given, by = x[i, begin:end], grad[i, begin:end], gain[i]
        for t in range(len(scale)):
            along[t] += row[t] * given[t] * by
    for t in range(len(scale)):
        along[t] *= scale[t] * scale[t] / np.float32(width)
    for i in range(width):
        prefetch_read(x, i + DISTANCE, begin, end)
        prefetch_read(grad, i + DISTANCE, begin, end)
        prefetch_write(d_x, i + DISTANCE, begin, end)
        row, given, made, by = x[i, begin:end], grad[i, begin:end], d_x[i, begin:end], gain[i]
        for t in range(len(scale)):
            made[t] = scale[t] * (given[t] * by - row[t] * along[t])


@reassociating_kernel
def rms_norm_gain_gradient(x, scales, grad, d_gain):
    """Gradient of `rms_norm` with respect to the gain [width]."""
    for i in prange(x.shape[0]):
        row, given = x[i], grad[i]
        total = np.float32(0)
        for t in range(x.shape[1]):
            total += row[t] * scales[t] * given[t]
        d_gain[i] = total


@kernel
def ablate(x, values, mask, out):
    """out = values [width] + mask [trials, width] · (x - values), for x [width, trials, n], n tokens a trial."""
    width, trials, n = x.shape
    for i in prange(width):
        for trial in range(trials):
            by, value = mask[trial, i], values[i]
            row, result = x[i, trial], out[i, trial]
            if by == 1:
                result[:] = row
            elif by == 0:
                result[:] = value
            else:
                for t in range(n):
                    result[t] = value + by * (row[t] - value)


@reassociating_kernel
def ablate_backward(x, values, mask, grad, d_x, d_mask):
    """Gradients of `ablate` with respect to x and the mask."""
    width, trials, n = x.shape
    for i in prange(width):
        for trial in range(trials):
            by, value = mask[trial, i], values[i]
            row, d_row, result = x[i, trial], grad[i, trial], d_x[i, trial]
            total = np.float32(0)
            if not has_nonzero(d_row):
                clear(result)
            else:
                for t in range(n):
                    total += d_row[t] * (row[t] - value)
                    result[t] = by * d_row[t]
            d_mask[trial, i] = total
