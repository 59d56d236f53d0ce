# mypy: ignore-errors
# ruff: noqa: RUF005
"""The kernel of `engines/fused_triton.py`: SGD updates of a small network in one launch, its weights in registers.

One block of threads holds all weights, reads batch after batch and writes one loss per update; the weights go back to
memory when it ends. Between two updates threads tell each other only what `tl.sum` and `tl.dot` do, and these order all
threads of the block themselves: no update can begin with weights that another thread has yet to change. Memory that is
read – inputs, targets, and the weights at the beginning – is never written before all have read it, and nothing that is
written is read again, so that no further barrier is needed.

Widths are padded to powers of two by weights of 0, which stay 0: what they add to any sum is 0, and so is their own
gradient. Points beyond the batch have no part in the loss, hence no gradient. Tuples have one entry per layer and are
unrolled when the kernel is compiled, as are all loops but those over updates and over blocks of points.

This module needs triton: import it only where that is installed. Below is Triton's language, not Python's: it has other
types, and no tuples with stars.
"""

import triton
import triton.language as tl

NOTHING, RELU, TANH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _linear(values, weight):
    """Return W x [outputs, points] of W [outputs, inputs] and x [inputs, points]; exact products, no TF32."""
    if weight.shape[0] >= 16 and weight.shape[1] >= 16 and values.shape[1] >= 16:
        sums = tl.dot(weight, values, input_precision="ieee")
    else:
        # In this order: of the other, W[:, :, None] · x[None, :, :], Triton makes a product of TF32 by itself.
        sums = tl.sum(values[None, :, :] * weight[:, :, None], axis=1)
    return sums


@triton.jit
def _weight_gradient(delta, values):
    """Return δ xᵀ [outputs, inputs] of δ [outputs, points] and x [inputs, points]."""
    if delta.shape[0] >= 16 and values.shape[0] >= 16 and values.shape[1] >= 16:
        sums = tl.dot(delta, tl.trans(values), input_precision="ieee")
    else:
        sums = tl.sum(delta[:, None, :] * values[None, :, :], axis=2)
    return sums


@triton.jit
def _input_gradient(delta, weight):
    """Return Wᵀ δ [inputs, points] of δ [outputs, points] and W [outputs, inputs]."""
    if weight.shape[0] >= 16 and weight.shape[1] >= 16 and delta.shape[1] >= 16:
        sums = tl.dot(tl.trans(weight), delta, input_precision="ieee")
    else:
        sums = tl.sum(weight[:, :, None] * delta[:, None, :], axis=0)
    return sums


@triton.jit
def _tanh(sums):
    """Return tanh, to a few units in the last place: Triton itself has none that its interpreter knows."""
    # From 1 - e⁻²ˣ where that loses no digits, below it the rational function of Cephes (tanh.c, S. Moshier).
    square = sums * sums
    above = (-9.64399179425052238628e-1 * square - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
    below = square + 1.12811678491632931402e2
    below = below * square + 2.23548839060100448583e3
    below = below * square + 4.84406305325125486048e3
    small = sums + sums * square * (above / below)
    size = tl.abs(sums)
    decay = tl.exp(-2 * size)
    large = (1 - decay) / (1 + decay)
    return tl.where(size < 0.625, small, tl.where(sums < 0, -large, large))


@triton.jit
def _activated(sums, activation: tl.constexpr):
    """Return the outputs of a layer. The comparison is such that what is no number stays none, as in torch."""
    if activation == RELU:
        outputs = tl.where(sums <= 0, 0.0, sums)
    elif activation == TANH:
        outputs = _tanh(sums)
    else:
        outputs = sums
    return outputs


@triton.jit
def _deactivated(delta, outputs, activation: tl.constexpr):
    """Return the gradient by what went into an activation, from that by its outputs."""
    if activation == RELU:
        inner = tl.where(outputs <= 0, 0.0, delta)
    elif activation == TANH:
        inner = delta * (1 - outputs * outputs)
    else:
        inner = delta
    return inner


@triton.jit
def _matrix(rows: tl.constexpr, columns: tl.constexpr, padded_rows: tl.constexpr, padded_columns: tl.constexpr):
    """Return the offsets of a row-major matrix that is padded to [padded_rows, padded_columns], and which are in it."""
    row = tl.arange(0, padded_rows)[:, None]
    column = tl.arange(0, padded_columns)[None, :]
    return row * columns + column, (row < rows) & (column < columns)


@triton.jit
def _points(batch, first, end, width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr):
    """Return points `first` to `end` of the batch that begins there, [padded, block], and 0 where it has none."""
    unit = tl.arange(0, padded)[:, None]
    point = first + tl.arange(0, block)[None, :]
    return tl.load(batch + point * width + unit, mask=(unit < width) & (point < end), other=0.0)


@triton.jit
def _gradients(
    inputs,
    targets,
    valid,
    weights,
    biases,
    depth: tl.constexpr,
    activations: tl.constexpr,
    bias_widths: tl.constexpr,
    terms: tl.constexpr,
):
    """Return, of one block of points, each one's squared error and the gradients by each layer's weight and bias.

    inputs [features, points], targets and valid [outputs, points]; terms: of the loss's mean, over the whole batch.
    """
    values = (inputs,)
    for layer in tl.static_range(0, depth):
        sums = _linear(values[layer], weights[layer]) + biases[layer][:, None]
        values = values + (_activated(sums, activations[layer]),)
    error = tl.where(valid, values[depth] - targets, 0.0)
    delta = error * (2.0 / terms)
    by_weight = ()
    by_bias = ()
    for layer in tl.static_range(depth - 1, -1, -1):
        delta = _deactivated(delta, values[layer + 1], activations[layer])
        by_weight = (_weight_gradient(delta, values[layer]),) + by_weight
        if bias_widths[layer] > 0:
            by_bias = (tl.sum(delta, axis=1),) + by_bias
        else:
            by_bias = (tl.zeros_like(biases[layer]),) + by_bias
        if layer > 0:
            delta = _input_gradient(delta, weights[layer])
    return tl.sum(error * error, axis=0), by_weight, by_bias


@triton.jit
def _zeros(values, depth: tl.constexpr):
    """Return zeros of the shape of values, layer by layer."""
    zeros = ()
    for layer in tl.static_range(0, depth):
        zeros = zeros + (tl.zeros_like(values[layer]),)
    return zeros


@triton.jit
def _plus(values, more, depth: tl.constexpr, factor: tl.constexpr):
    """Return values + factor · more, layer by layer."""
    together = ()
    for layer in tl.static_range(0, depth):
        together = together + (values[layer] + factor * more[layer],)
    return together


@triton.jit(do_not_specialize=["inputs", "targets", "losses", "steps", "input_stride", "target_stride"])
def train(
    inputs,
    targets,
    losses,
    parameters,
    steps,
    input_stride,
    target_stride,
    depth: tl.constexpr,
    widths: tl.constexpr,
    padded: tl.constexpr,
    activations: tl.constexpr,
    weight_places: tl.constexpr,
    bias_places: tl.constexpr,
    bias_widths: tl.constexpr,
    learning_rate: tl.constexpr,
    batch: tl.constexpr,
    block: tl.constexpr,
):
    """Make one SGD update per batch by the gradient of the mean squared error; write each batch's loss before it.

    inputs, targets: batches of contiguous points, each a stride after the one before (0: always the same batch).
    losses: [steps]. parameters: all weights one after the other, those of a layer at its weight_place and bias_place.
    depth: the number of linear layers. widths, padded: of the inputs, then of each layer's outputs. bias_widths: 0 for
    a layer without bias. activations: RELU, TANH or NOTHING after each layer. block: points at a time, a power of two.

    Nothing is specialised to the numbers and addresses of a call: Triton would compile again for one step, or a batch
    at an odd address, and add in another order there.
    """
    weights = ()
    biases = ()
    for layer in tl.static_range(0, depth):
        offsets, inside = _matrix(widths[layer + 1], widths[layer], padded[layer + 1], padded[layer])
        weights = weights + (tl.load(parameters + weight_places[layer] + offsets, mask=inside, other=0.0),)
        unit = tl.arange(0, padded[layer + 1])
        kept = unit < bias_widths[layer]
        biases = biases + (tl.load(parameters + bias_places[layer] + unit, mask=kept, other=0.0),)

    terms: tl.constexpr = batch * widths[depth]
    point = tl.arange(0, block)[None, :]
    existing = tl.arange(0, padded[depth])[:, None] < widths[depth]
    # Where a batch is one block, the next is on its way while one is computed.
    end = tl.where(steps > 0, batch, 0)
    next_inputs = _points(inputs, 0, end, widths[0], padded[0], block)
    next_targets = _points(targets, 0, end, widths[depth], padded[depth], block)
    for step in range(steps):
        if batch <= block:
            now_inputs = next_inputs
            now_targets = next_targets
            end = tl.where(step + 1 < steps, batch, 0)
            next_inputs = _points(inputs + input_stride, 0, end, widths[0], padded[0], block)
            next_targets = _points(targets + target_stride, 0, end, widths[depth], padded[depth], block)
            valid = existing & (point < batch)
            squares, by_weight, by_bias = _gradients(
                now_inputs, now_targets, valid, weights, biases, depth, activations, bias_widths, terms
            )
        else:
            squares = tl.zeros([block], losses.dtype.element_ty)
            by_weight = _zeros(weights, depth)
            by_bias = _zeros(biases, depth)
            for first in range(0, batch, block):
                now_inputs = _points(inputs, first, batch, widths[0], padded[0], block)
                now_targets = _points(targets, first, batch, widths[depth], padded[depth], block)
                valid = existing & (first + point < batch)
                more, more_by_weight, more_by_bias = _gradients(
                    now_inputs, now_targets, valid, weights, biases, depth, activations, bias_widths, terms
                )
                squares += more
                by_weight = _plus(by_weight, more_by_weight, depth, 1.0)
                by_bias = _plus(by_bias, more_by_bias, depth, 1.0)
        tl.store(losses + step, tl.sum(squares, axis=0) * (1.0 / terms))
        weights = _plus(weights, by_weight, depth, -learning_rate)
        biases = _plus(biases, by_bias, depth, -learning_rate)
        inputs += input_stride
        targets += target_stride

    for layer in tl.static_range(0, depth):
        offsets, inside = _matrix(widths[layer + 1], widths[layer], padded[layer + 1], padded[layer])
        tl.store(parameters + weight_places[layer] + offsets, weights[layer], mask=inside)
        unit = tl.arange(0, padded[layer + 1])
        tl.store(parameters + bias_places[layer] + unit, biases[layer], mask=unit < bias_widths[layer])
