"""A tiny language model without norms and with skips around attention only, trained here in NumPy.

It is small enough to be trained in less than a minute, and it learns: character by character it comes to know the Zen
of Python, which every Python installation carries. What it is for is what comes after: ``eliminate_queries`` takes all
its query matrices away, and it still says the same.

>>> from qkvtheory import eliminate_queries
>>> from qkvtheory.experiments import tiny
>>> model, log = tiny.train(steps=2)
>>> new = eliminate_queries(model)
>>> abs(tiny.loss(new) - tiny.loss(model)) < 1e-9
True
>>> tiny.parameters(model) - tiny.parameters(new) == tiny.LAYERS * tiny.WIDTH**2
True

The model is our own ``Network``. Training needs derivatives of many windows of text at once; those are written out by
hand below (``gradients``), and the tests compare them with differences.
Sources: the architecture is that of arXiv 2510.23912 with a skip around attention only; the optimizer is Adam, Kingma
and Ba 2015, arXiv 1412.6980; the text is by Tim Peters (PEP 20).
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, causal
from qkvtheory.network import MLP, Attention, Block, Network

LAYERS, WIDTH, HEADS, HIDDEN, CONTEXT = 3, 32, 4, 64, 32
BATCH, STEPS, RATE, WARMUP, CLIP = 16, 1500, 1e-2, 50, 1.0

Weights = dict[str, np.ndarray]  # E, P, D, and W_Q0, W_K0, ... of layer 0, 1, ...


# -- text --------------------------------------------------------------------------------------------------------------


@functools.cache
def corpus() -> tuple[str, str]:
    """(text, vocabulary): the Zen of Python, and its characters in order, each once.

    >>> text, vocabulary = corpus()
    >>> text[:34], len(vocabulary)
    ('The Zen of Python, by Tim Peters\\n\\n', 45)
    """
    with contextlib.redirect_stdout(io.StringIO()):  # the module says its text when it is imported
        import this

    text = "".join(this.d.get(c, c) for c in this.s)
    return text, "".join(sorted(set(text)))


def numbers(text: str) -> np.ndarray:
    """The place of every character in the vocabulary. Raises ValueError for characters the model never saw."""
    places = {c: i for i, c in enumerate(corpus()[1])}
    if unknown := sorted(set(text) - set(places)):
        raise ValueError(f"the model has never seen the characters {''.join(unknown)!r}; it knows {corpus()[1]!r}")
    return np.array([places[c] for c in text], dtype=int)


def one_hot(tokens: np.ndarray) -> np.ndarray:
    return np.eye(len(corpus()[1]))[tokens]


# -- what a trained network can do -------------------------------------------------------------------------------------


def logits(network: Network, tokens: np.ndarray) -> np.ndarray:
    """len(tokens) x vocabulary, for at most CONTEXT tokens.

    The network reads CONTEXT tokens; what fills up the end is not seen by the tokens before it, thanks to the causal
    mask.
    """
    filled = np.zeros(CONTEXT, dtype=int)
    filled[: len(tokens)] = tokens
    return network(one_hot(filled))[: len(tokens)]


def windows(text: str) -> Iterator[np.ndarray]:
    """The text in pieces of CONTEXT + 1 tokens, each starting with the last token of the one before."""
    tokens = numbers(text)
    if len(tokens) < 2:
        raise ValueError("the text must have at least two characters: one to read and one to predict")
    return (tokens[start : start + CONTEXT + 1] for start in range(0, len(tokens) - 1, CONTEXT))


def loss(network: Network, text: str | None = None) -> float:
    """Mean of -log p(next character), in nats; of the whole corpus, if no text is given.

    Guessing costs the logarithm of the size of the vocabulary. Where a window of CONTEXT characters starts, even the
    best model can only guess.
    """
    costs = [
        -log_softmax(logits(network, window[:-1]))[range(len(window) - 1), window[1:]]
        for window in windows(corpus()[0] if text is None else text)
    ]
    return float(np.concatenate(costs).mean())


def predicted(network: Network, text: str | None = None) -> str:
    """For every character of the text but the last, the one that the network expects next."""
    vocabulary, text = corpus()[1], corpus()[0] if text is None else text
    return "".join(vocabulary[i] for window in windows(text) for i in logits(network, window[:-1]).argmax(1))


def continue_text(network: Network, prompt: str, length: int = 60) -> str:
    """The prompt and ``length`` more characters, always the likeliest one. Reads the last CONTEXT characters only."""
    if not prompt:
        raise ValueError("the prompt must have at least one character")
    if length < 0:
        raise ValueError(f"length must be 0 or more characters, not {length}")
    tokens = list(numbers(prompt))
    for _ in range(length):
        tokens.append(int(logits(network, np.array(tokens[-CONTEXT:]))[-1].argmax()))
    return prompt + "".join(corpus()[1][i] for i in tokens[len(prompt) :])


def parameters(network: Network) -> int:
    """How many numbers the network has learned. A matrix that is exactly I need not be stored: it counts as none."""
    parts = [network, *(part for block in network.blocks for part in (block, block.attention, block.mlp))]
    matrices = [m for part in parts for m in vars(part).values() if isinstance(m, np.ndarray)]
    return sum(m.size for m in matrices if not is_identity(m))


def is_identity(m: np.ndarray) -> bool:
    return m.ndim == 2 and m.shape[0] == m.shape[1] and bool((m == np.eye(len(m))).all())


# -- training ----------------------------------------------------------------------------------------------------------


def train(steps: int = STEPS, seed: int = 0, progress: bool = False) -> tuple[Network, list[tuple[int, float]]]:
    """(network, log): a model trained on ``corpus`` with Adam; the log lists (step, loss of that step's windows).

    The same seed gives the same model on the same machine. ``progress``: print the loss ten times on the way.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    rng, tokens = np.random.default_rng(seed), numbers(corpus()[0])
    weights = start(rng)
    adam = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    log = []
    for step in range(1, steps + 1):
        first = rng.integers(0, len(tokens) - CONTEXT, size=(BATCH, 1))
        batch = tokens[first + np.arange(CONTEXT + 1)]
        cost, slopes = gradients(weights, batch)
        update(weights, slopes, adam, step, steps)
        log.append((step, cost))
        if progress and (step == 1 or step % max(steps // 10, 1) == 0):
            print(f"step {step:5}   loss {cost:.3f}", flush=True)
    return network_of(weights), log


def start(rng: np.random.Generator) -> Weights:
    """Random weights that keep the size of the stream: without norms nothing else would."""
    words = len(corpus()[1])

    def draw(rows: int, cols: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(size=(rows, cols)) * (scale / math.sqrt(rows))

    weights = {"E": rng.normal(size=(words, WIDTH)) * 0.7, "P": rng.normal(size=(CONTEXT, WIDTH)) * 0.7}
    for layer in range(LAYERS):
        weights |= {f"W_{c}{layer}": draw(WIDTH, WIDTH) for c in "QKVO"}
        weights |= {f"W_up{layer}": draw(WIDTH, HIDDEN), f"b_up{layer}": np.zeros((1, HIDDEN))}
        weights |= {f"W_down{layer}": draw(HIDDEN, WIDTH, 1.5), f"b_down{layer}": np.zeros((1, WIDTH))}
    return weights | {"D": draw(WIDTH, words)}


def network_of(weights: Weights) -> Network:
    """The weights as a network of this package: what the theorems are about."""
    core, blocks = Heads(HEADS, mask=causal(CONTEXT)), []
    for layer in range(LAYERS):
        attention = Attention(core, *(weights[f"W_{c}{layer}"] for c in "QKVO"))
        mlp = MLP(np.tanh, *(weights[f"{name}{layer}"] for name in ("W_up", "W_down", "b_up", "b_down")))
        blocks.append(Block(attention, mlp, attention_skip=True, mlp_skip=False))
    return Network(weights["E"], blocks, weights["D"], weights["P"])


def update(weights: Weights, slopes: Weights, adam: dict[str, Any], step: int, steps: int) -> None:
    """One step of Adam in place: the gradient clipped to length CLIP, the rate warmed up, then falling to a tenth."""
    length = math.sqrt(sum(float((g * g).sum()) for g in slopes.values()))
    factor = min(1.0, CLIP / length)
    rate = RATE * min(1.0, step / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
    for name, slope in slopes.items():
        mean, square = adam[name]
        mean += 0.1 * (factor * slope - mean)
        square += 0.01 * ((factor * slope) ** 2 - square)
        unbiased = mean / (1 - 0.9**step), square / (1 - 0.99**step)
        weights[name] -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)


def gradients(weights: Weights, batch: np.ndarray) -> tuple[float, Weights]:
    """(loss, its derivative by every weight) for a batch of windows, BATCH x (CONTEXT + 1) tokens.

    Forwards through the layers, keeping what the way back needs; then backwards. Streams are BATCH x CONTEXT x WIDTH.
    """
    read, expected = batch[:, :-1], batch[:, 1:]
    x, kept = weights["E"][read] + weights["P"], []
    for layer in range(LAYERS):
        x, memory = forwards(weights, layer, x)
        kept.append(memory)
    log_p = log_softmax(x @ weights["D"])
    places = (*np.indices(expected.shape), expected)
    error = np.exp(log_p)
    error[places] -= 1
    error /= expected.size
    slopes = {"D": summed(x, error)}
    back = error @ weights["D"].T
    for layer in reversed(range(LAYERS)):
        back = backwards(weights, layer, kept[layer], back, slopes)
    slopes["E"], slopes["P"] = np.zeros_like(weights["E"]), back.sum(0)
    np.add.at(slopes["E"], read, back)
    return -float(log_p[places].mean()), slopes


def forwards(weights: Weights, layer: int, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """One block: the stream after it, and x, q, k, v, the maps, the heads' output, y and the hidden layer."""
    w = {name: weights[f"{name}{layer}"] for name in BLOCK}
    q, k, v = (split(x @ w[f"W_{c}"]) for c in "QKV")
    scores = q @ k.mT / math.sqrt(WIDTH // HEADS)
    maps = np.exp(log_softmax(np.where(causal(x.shape[1]), scores, -np.inf)))
    heads = merge(maps @ v)
    y = x + heads @ w["W_O"]
    hidden = np.tanh(y @ w["W_up"] + w["b_up"])
    return hidden @ w["W_down"] + w["b_down"], (x, q, k, v, maps, heads, y, hidden)


def backwards(weights: Weights, layer: int, kept: tuple[np.ndarray, ...], back: np.ndarray, slopes: Weights) -> Any:
    """From the derivative by the stream after a block to the one before it; the weights' own go into ``slopes``."""
    w = {name: weights[f"{name}{layer}"] for name in BLOCK}
    x, q, k, v, maps, heads, y, hidden = kept
    found = {"W_down": summed(hidden, back), "b_down": back.sum((0, 1))[None]}
    back = back @ w["W_down"].T * (1 - hidden**2)
    found |= {"W_up": summed(y, back), "b_up": back.sum((0, 1))[None]}
    back_y = back @ w["W_up"].T
    found["W_O"] = summed(heads, back_y)
    back = split(back_y @ w["W_O"].T)
    by_maps = back @ v.mT
    by_scores = maps * (by_maps - (maps * by_maps).sum(-1, keepdims=True)) / math.sqrt(WIDTH // HEADS)
    result = back_y  # the skip
    for name, part in (("W_Q", by_scores @ k), ("W_K", by_scores.mT @ q), ("W_V", maps.mT @ back)):
        by_product = merge(part)
        found[name] = summed(x, by_product)
        result = result + by_product @ w[name].T
    slopes |= {f"{name}{layer}": slope for name, slope in found.items()}
    return result


BLOCK = ("W_Q", "W_K", "W_V", "W_O", "W_up", "b_up", "W_down", "b_down")


def summed(inputs: np.ndarray, back: np.ndarray) -> np.ndarray:
    """inputs^T back, summed over the windows: the derivative by a weight that reads ``inputs``.

    One small product for each window: a large one would be shared out among threads, which on a busy machine takes many
    times as long as the product itself.
    """
    return (inputs.mT @ back).sum(0)


def split(z: np.ndarray) -> np.ndarray:
    """BATCH x n x WIDTH -> BATCH x HEADS x n x head width."""
    return z.reshape(*z.shape[:2], HEADS, -1).swapaxes(1, 2)


def merge(z: np.ndarray) -> np.ndarray:
    return z.swapaxes(1, 2).reshape(len(z), z.shape[2], -1)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))
