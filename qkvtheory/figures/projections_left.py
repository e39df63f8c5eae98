"""The picture of claim projections-left: which projections are still to be learned once the query is eliminated.

Nothing in it is drawn by hand: the elimination itself runs on letters, once for each way of tying, and the picture
shows what it returned.
"""

from __future__ import annotations

import re
from html import escape

from qkvtheory.gauge import reparametrize
from qkvtheory.network import Attention
from qkvtheory.words import Word, identity, opaque, symbol

VARIANTS = {"QKV": "QKV", "Q-K=V": "QKK", "Q=K-V": "QQV", "Q=K=V": "QQQ"}  # whose matrix query, key and value use
COUNT = ("none", "one", "two", "three")
COLOR = {"Q": "var(--qkv-q)", "K": "var(--qkv-k)", "V": "var(--qkv-v)"}
TILE, GAP, LEFT, ARROW, END = 74, 8, 66, 32, 74


def before_and_after(uses: str) -> tuple[list[Word], list[Word]]:
    """The three projections of a variant such as "QKK", in letters, before and after W_Q is eliminated."""
    letters = {c: symbol(f"W_{c}", "d", "d", invertible=True) for c in "QKV"}
    W_Q, W_K, W_V = (letters[c] for c in uses)
    old = Attention(opaque("g", "d"), W_Q, W_K, W_V, symbol("W_O", "d", "d"))
    _, new = reparametrize(old, "Q")
    return [old.W_Q, old.W_K, old.W_V], [new.W_Q, new.W_K, new.W_V]


def left_to_learn(after: list[Word]) -> int:
    """How many different matrices are left, the identity not counted."""
    return len({word for word in after if word != identity("d")})


def html() -> str:
    """The picture: a line for each variant, in two halves that a narrow page puts below one another."""
    lines = "".join(f'<div class="picture-line">{line(name, uses)}</div>' for name, uses in VARIANTS.items())
    return f'<div class="picture" role="img" aria-label="{escape(description())}">{lines}</div>'


def description() -> str:
    """The picture in words."""
    told = []
    for name, uses in VARIANTS.items():
        _, after = before_and_after(uses)
        shown = ", ".join(map(label, after))
        told.append(f"{name} becomes {shown}: {COUNT[left_to_learn(after)]} left to learn")
    return "Query, key and value after the query is eliminated. " + "; ".join(told) + "."


def line(name: str, uses: str) -> str:
    before, after = before_and_after(uses)
    width, count = 3 * (TILE + GAP), f"{COUNT[left_to_learn(after)]} left"
    arrow = '<path d="M4 22h22m-6 -5l6 5l-6 5" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    old = text(0, 27, escape(name), "start") + tiles(before, LEFT)
    new = arrow + tiles(after, ARROW) + text(ARROW + width, 27, count, "start")
    return half(old, LEFT + width) + half(new, ARROW + width + END)


def half(content: str, width: int) -> str:
    frame = f'viewBox="0 0 {width} 44" width="{width}" height="44"'
    return f'<svg {frame} aria-hidden="true" font-size="14" fill="currentColor">{content}</svg>'


def tiles(words: list[Word], x: float) -> str:
    """Three tiles; neighbors that are one matrix are joined."""
    drawn = ""
    for i, word in enumerate(words):
        at = x + i * (TILE + GAP)
        if i and word == words[i - 1]:
            drawn += f'<path d="M{at - GAP} 22h{GAP}" stroke="currentColor" stroke-width="5"/>'
        drawn += tile(word, at)
    return drawn


def tile(word: Word, x: float) -> str:
    """A learned matrix is filled with the color of what it was; the identity is an empty frame."""
    learned = word != identity("d")
    color = COLOR[label(word)[-1]] if learned else "currentColor"
    style = f"fill:color-mix(in srgb, {color} 20%, transparent);stroke:{color}"
    if not learned:
        style = "fill:none;stroke:currentColor;stroke-dasharray:4 4"
    box = f'<rect x="{x}" y="2" width="{TILE}" height="40" rx="6" style="{style}" stroke-width="1.5"/>'
    return box + text(x + TILE / 2, 27, formula(word))


def label(word: Word) -> str:
    """W_Q^-1 W_K in plain text."""
    return str(word).replace("^-1", "⁻¹")


def formula(word: Word) -> str:
    """The same as SVG text with lowered indices and a raised exponent."""
    parts = re.sub(
        r"_(\w)", r'<tspan dy="4" font-size="10">\1</tspan><tspan dy="-4">&#8203;</tspan>', escape(str(word))
    )
    return parts.replace("^-1 ", '<tspan dy="-6" font-size="10">−1</tspan><tspan dy="6">&#8203;</tspan>')


def text(x: float, y: float, what: str, anchor: str = "middle") -> str:
    """``what`` is SVG text already."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{what}</text>'
