r"""One color per symbol: find Q, K, V, X and Theta in TeX and mark them.

>>> color(r"X\Theta")
'{\\class{sym-x}{X}}{\\class{sym-theta}{\\Theta}}'
>>> color(r"\tilde W_Q^{-1}")
'{\\class{sym-q}{\\tilde W_Q^{-1}}}'
>>> color(r"\mathrm{KV}")
'\\mathrm{KV}'
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\s+|[{}]|[_^]|.", re.S)
LETTERS = {"Q": "q", "K": "k", "V": "v", "X": "x", r"\Theta": "theta"}
ACCENTS = {r"\tilde", r"\widetilde", r"\hat", r"\widehat", r"\bar", r"\overline", r"\mathbf", r"\boldsymbol", r"\bm"}
# What these take is text, a name or another alphabet (\mathcal K is not the key matrix), so it keeps the text color.
VERBATIM = {
    r"\text", r"\mathrm", r"\operatorname", r"\operatorname*", r"\begin", r"\end", r"\class", r"\mathbb", r"\mathcal",
    r"\mathsf", r"\mathfrak", r"\textbf", r"\textit", r"\label", r"\tag", r"\hspace", r"\color", r"\mathit", r"\mathtt",
}  # fmt: skip


def color(tex: str) -> str:
    r"""TeX with ``\class{sym-...}{...}`` around every symbol that has a color, scripts and accents included."""
    return _color(TOKEN.findall(tex))


def _color(tokens: list[str]) -> str:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        end = _verbatim_end(tokens, at)
        nucleus = _nucleus_end(tokens, at)
        # In G_K^{-1} the K is all of the subscript: what follows stands at G.
        scripts = nucleus if _is_script(tokens, at) else _scripts_end(tokens, nucleus)
        kind = None if end else _kind(tokens[at:nucleus], tokens[nucleus:scripts])
        if kind:
            # Braced, because the symbol may be an argument: \frac QK, e^X.
            out.append(rf"{{\class{{sym-{kind}}}{{{''.join(tokens[at:scripts]).rstrip()}}}}}")
        else:
            out.append("".join(tokens[at : end or at + 1]))
        at = scripts if kind else end or at + 1
    return "".join(out)


def _is_script(tokens: list[str], at: int) -> bool:
    """Is this token a subscript or superscript without braces?"""
    before = next((token for token in reversed(tokens[:at]) if not token.isspace()), "")
    return before in ("_", "^")


def _skip_space(tokens: list[str], at: int) -> int:
    while at < len(tokens) and tokens[at].isspace():
        at += 1
    return at


def _group_end(tokens: list[str], at: int) -> int:
    """The index after one TeX argument: a braced group, or a single token with the argument of an accent."""
    at = _skip_space(tokens, at)
    if at >= len(tokens):
        return at
    if tokens[at] != "{":
        return _group_end(tokens, at + 1) if tokens[at] in ACCENTS | VERBATIM else at + 1
    depth = 0
    while at < len(tokens):
        depth += {"{": 1, "}": -1}.get(tokens[at], 0)
        at += 1
        if not depth:
            return at
    return at


def _verbatim_end(tokens: list[str], at: int) -> int | None:
    """The index after ``\\text{...}`` and its kin; after ``\\class`` both arguments belong to it."""
    if tokens[at] not in VERBATIM:
        return None
    end = _group_end(tokens, at + 1)
    return _group_end(tokens, end) if tokens[at] == r"\class" else end


def _nucleus_end(tokens: list[str], at: int) -> int:
    return _group_end(tokens, at + 1) if tokens[at] in ACCENTS else at + 1


def _scripts_end(tokens: list[str], at: int) -> int:
    """The index after all scripts and primes that follow a nucleus."""
    while True:
        ahead = _skip_space(tokens, at)
        if ahead < len(tokens) and tokens[ahead] == "'":
            at = ahead + 1
        elif ahead < len(tokens) and tokens[ahead] in "_^":
            at = _group_end(tokens, ahead + 1)
        else:
            return at


def _bare(tokens: list[str]) -> str:
    return "".join(token for token in tokens if token not in ACCENTS and token not in "{}" and not token.isspace())


def _kind(nucleus: list[str], scripts: list[str]) -> str | None:
    """The color of a symbol: by its letter, or for W by the Q, K or V in its subscript."""
    letter = _bare(nucleus)
    if letter in LETTERS:
        return LETTERS[letter]
    if letter not in {"W", "w", "b"}:
        return None
    subscript = _subscript(scripts)
    named = {LETTERS[c] for c in subscript if c in "QKV"}
    return named.pop() if len(named) == 1 else None


def _subscript(scripts: list[str]) -> str:
    at = 0
    while at < len(scripts):
        if scripts[at] in ("_", "^"):
            end = _group_end(scripts, at + 1)
            if scripts[at] == "_":
                return _bare(scripts[at + 1 : end])
            at = end
        else:
            at += 1
    return ""
