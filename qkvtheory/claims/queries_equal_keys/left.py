"""The theorem that joins the two papers: how many projections are left to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.queries_equal_keys.common import CHAPTER
from qkvtheory.lanes.settings import FLOAT, square_keys
from qkvtheory.lanes.worlds import Floats
from qkvtheory.network import MLP, Attention, Block, Network, affine

# Which projection each of query, key and value uses.
VARIANTS = {"QKV": "QKV", "Q-K=V": "QKK", "Q=K-V": "QQV", "Q=K=V": "QQQ"}
LEFT = {"QKV": 2, "Q-K=V": 1, "Q=K-V": 1, "Q=K=V": 0}
SAVED = {"QKV": Fraction(1, 4), "Q-K=V": Fraction(1, 3), "Q=K-V": Fraction(1, 3), "Q=K=V": Fraction(1, 2)}


def weights(w: Any, roles: str, label: str = "", biases: bool = False, shared: Any = None) -> dict[str, Any]:
    """Square projections, one letter for every role that is not tied; tied ones have tied biases (H4)."""
    letters = {"Q": w.invertible("W_Q" + label, "d", "H3") if shared is None else shared}
    letters |= {c: w.matrix(f"W_{c}{label}", "d", "d") for c in "KV"}
    given = {f"W_{place}": letters[role] for place, role in zip("QKV", roles, strict=True)}
    if biases or w.has_biases:
        given |= {
            f"b_{place}": w.matrix(f"b_{role}{label}", "1", "d") for place, role in zip("QKV", roles, strict=True)
        }
    return given


def one_sublayer(w: Any, roles: str, biases: bool = False) -> Pairs:
    """(b) for one variant: the same function, the identity where a projection was W_Q, and ties kept."""
    x, a = w.matrix("X", "n", "d"), w.attention(square=True, **weights(w, roles, biases=biases))
    theta, new = gauge.reparametrize(a, "Q")
    return [(call(new, x @ theta), call(a, x)), *left_over(w, new, roles)]


def left_over(w: Any, new: Attention, roles: str) -> Pairs:
    """W_K and W_V of a rewritten sublayer, wherever a tie says what they are."""
    pairs = [(new.W_K, w.identity("d"))] if roles[1] == "Q" else []
    return [*pairs, (new.W_V, new.W_K)] if roles[1] == roles[2] else pairs


def four_variants(w: Any) -> Pairs:
    """(b); and for any basis (a) a difference of two projections vanishes where it did, (c) only Theta itself becomes I."""
    a, theta = w.attention(square=True, **weights(w, "QKV")), w.invertible("Theta", "d", "H3")
    moved = gauge.change_basis(a, theta)
    ties = [(theta @ (moved.W_K - moved.W_V), a.W_K - a.W_V), (theta @ (moved.W_K - w.identity("d")), a.W_K - theta)]
    return [*(pair for roles in VARIANTS.values() for pair in one_sublayer(w, roles)), *ties]


def stack(w: Any, roles: str, topology: tuple[bool, bool] = (True, False), shared: Any = None) -> Network:
    """Two blocks of one variant, with the ends of a network. ``shared``: the W_Q of both, where they have one."""
    blocks = [
        w.block(label=label, topology=topology, **weights(w, roles, label, shared=shared)) for label in ("^1", "^2")
    ]
    return Network(w.matrix("E", "vocab", "d"), blocks, w.matrix("D", "d", "s"), w.matrix("P", "n", "d"))


def in_a_stack(w: Any, roles: str, topology: tuple[bool, bool]) -> Pairs:
    """Every layer of a network: the same function, and in every layer what the table says. With every skip, W_Q must
    be shared.
    """
    old = stack(w, roles, topology, w.invertible("W_Q", "d", "H3") if all(topology) else None)
    new = stacks.eliminate(old, "Q")
    tokens = w.tokens()
    ties = [pair for block in new.blocks for pair in left_over(w, block.attention, roles)]
    return [(call(new, tokens, name="network"), call(old, tokens, name="network")), *ties]


def one_layer_on(w: Any) -> Pairs:
    """The induction step: a block of any input, in the basis W_Q, hands on any other basis."""
    x, leave = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H3")
    old = w.block(**weights(w, "QKK"))
    new = gauge.rebase(old, old.attention.W_Q, leave)
    return [(call(new, x @ old.attention.W_Q, name="block"), old(x) @ leave)]


def tied_reads(w: Any) -> Pairs:
    """H4: with tied biases queries still are keys after the elimination, and values where they were."""
    x, a = w.matrix("X", "n", "d"), w.attention(square=True, **weights(w, "QQQ", biases=True))
    theta, new = gauge.reparametrize(a, "Q")
    q, k, v = (affine(x @ theta, getattr(new, f"W_{c}"), getattr(new, f"b_{c}")) for c in "QKV")
    return [(k, q), (v, q)]


def stacks_and_biases(w: Any) -> Pairs:
    """Biases; one layer on; and a variant in each kind of stack that lets every layer go."""
    stacked = [("QQQ", (True, False)), ("QKK", (False, False)), ("QQV", (False, True)), ("QKK", (True, True))]
    return [*tied_reads(w), *one_layer_on(w), *(pair for kind in stacked for pair in in_a_stack(w, *kind))]


def both_skips(w: Any) -> Pairs:
    """The bases of each layer, with a skip around the MLP that carries the old basis past it."""
    old = stack(w, "QQQ")
    new = stacks.eliminate(old, "Q")

    def skipping(network: Network) -> Network:
        return replace(network, blocks=[replace(block, mlp_skip=True) for block in network.blocks])

    return [(skipping(new)(w.tokens()), skipping(old)(w.tokens()))]


def both_skips_refused(w: Any) -> Pairs:
    old = stack(w, "QQQ", (True, True))
    return [(stacks.eliminate(old, "Q")(w.tokens()), old(w.tokens()))]


def rewritten(w: Any, given: dict[str, Any], change: Callable[[Any], Any], theta: Any) -> Pairs:
    """W_Q = I and ``change`` for the other projections, read from x theta."""
    x, a = w.matrix("X", "n", "d"), w.attention(square=True, **given)
    new = replace(a, W_Q=w.identity("d"), W_K=change(a.W_K), W_V=change(a.W_V))
    return [(new(x @ theta), a(x))]


def singular_query(w: Any) -> Pairs:
    theta, back = w.singular("W_Q", "d")
    return rewritten(w, weights(w, "QKV") | {"W_Q": theta}, lambda weight: back @ weight, theta)


def singular_query_refused(w: Any) -> Pairs:
    a = w.attention(square=True, **(weights(w, "QQV") | dict.fromkeys(("W_Q", "W_K"), w.singular("W_Q", "d")[0])))
    return [(gauge.reparametrize(a, "Q")[1].W_V, a.W_V)]


def narrow_query_refused(w: Any) -> Pairs:
    """A network with W_Q and W_K narrower than the stream."""
    old = w.network(1, **{f"W_{c}": w.matrix(f"W_{c}", "d", "h") for c in "QK"})
    return [(stacks.eliminate(old, "Q").embedding, old.embedding)]


def wrong_side(w: Any) -> Pairs:
    given = weights(w, "QKV")
    back = gauge.inverse(given["W_Q"])
    return rewritten(w, given, lambda weight: weight @ back, given["W_Q"])


def one_key_head(w: Any) -> Any:
    """Queries equal to keys with one key head: W_Q repeats the columns of W_K, and has their rank only."""
    W = w.matrix("W_K", "d", "h")
    W_Q = np.concatenate([W] * w.setting.heads, axis=1)
    return Attention(Heads(w.setting.heads, groups=1), W_Q, W, w.matrix("W_V", "d", "h"), w.matrix("W_O", "d", "d"))


def repeated_columns(w: Any) -> Pairs:
    a, x = one_key_head(w), w.matrix("X", "n", "d")
    back = np.linalg.pinv(a.W_Q)
    return [(replace(a, W_Q=w.identity("d"), W_K=back @ a.W_K, W_V=back @ a.W_V)(x @ a.W_Q), a(x))]


def narrow_key_refused(w: Any) -> Pairs:
    a = one_key_head(w)
    return [(gauge.reparametrize(a, "K")[1].W_V, a.W_V)]


def untied_biases(w: Any) -> Pairs:
    """W_Q = W_K, but b_Q != b_K: one row of biases for both."""
    given = weights(w, "QQV") | {"b_Q": w.matrix("b_Q", "1", "d"), "b_K": w.matrix("b_K", "1", "d")}
    x, a = w.matrix("X", "n", "d"), w.attention(square=True, **given)
    theta, new = gauge.reparametrize(a, "Q")
    return [(replace(new, b_Q=new.b_K)(x @ theta), a(x))]


def counted(_: Any) -> Pairs:
    """Three layers, four heads: the distinct projections that are not I, and the part of the matrices that is saved."""
    pairs: list[Any] = []
    w = Floats(FLOAT[0])
    for variant, roles in VARIANTS.items():
        labels = ("^1", "^2", "^3")
        old = Network(
            w.matrix("E", "vocab", "d"),
            [block_of(w, weights(w, roles, label), label) for label in labels],
            w.matrix("D", "d", "s"),
        )
        new = stacks.eliminate(old, "Q")
        for before, block in zip(old.blocks, new.blocks, strict=True):
            learned, now = distinct(before.attention), distinct(block.attention)
            pairs += [(LEFT[variant], len(now)), (SAVED[variant], Fraction(len(learned) - len(now), len(learned) + 1))]
            pairs.append((len(learned) - 1, len(now)))
    return pairs


def block_of(w: Any, given: dict[str, Any], label: str) -> Block:
    mlp = MLP(np.tanh, w.matrix("W_up" + label, "d", "hidden"), w.matrix("W_down" + label, "hidden", "d"))
    return Block(w.attention(square=True, label=label, **given), mlp)


def distinct(a: Attention) -> list[Any]:
    """The projections of a sublayer that differ from I and from one another."""
    found = [np.eye(len(a.W_Q))]
    for weight in (a.W_Q, a.W_K, a.W_V):
        if not any(np.allclose(weight, other, rtol=0, atol=1e-9) for other in found):
            found.append(weight)
    return found[1:]


PROJECTIONS_LEFT = Claim(
    id="projections-left",
    rank="theorem",
    chapter=CHAPTER,
    title="How many projections are left to learn",
    statement=(
        "Eliminate the query exactly, $\\Theta=W_Q$. Then the function is the same, the network stays in its variant, and what is left to "
        "learn is the number of distinct projections, minus one: two for QKV ($I,\\ W_Q^{-1}W_K,\\ W_Q^{-1}W_V$), one for Q-K=V "
        "($I,\\ Z,\\ Z$), one for Q=K-V ($I,\\ I,\\ W_Q^{-1}W_V$), none for Q=K=V ($I,\\ I,\\ I$): a quarter, a third, a third, a half of the "
        "attention matrices, $W_O$ included. A change of the stream's basis keeps every tie and creates none, "
        "$\\Theta(\\Theta^{-1}W_A-\\Theta^{-1}W_B)=W_A-W_B$, and turns into $I$ exactly what equals $\\Theta$, "
        "$\\Theta(\\Theta^{-1}W_A-I)=W_A-\\Theta$: no basis leaves fewer."
    ),
    hypotheses=(
        Hypothesis(
            "H1",
            "exact elimination",
            "the query can be eliminated: in one sublayer whose input is rebased, or in every layer of a network that lets each have its basis",
        ),
        Hypothesis("H2", "square", "$W_Q$ is square"),
        Hypothesis("H3", "invertible", "$W_Q$ (and $\\Theta$) is invertible"),
        Hypothesis("H4", "tied biases", "tied projections have tied biases, or none"),
    ),
    sources=(
        Source("derived", note="we know of no paper that states it"),
        Source("paper", "karbevski2025kv", note="the elimination of the query"),
        Source("paper", "kayyam2026three", note="the four variants"),
    ),
    uses=(
        "eliminate-q",
        "lemma-biases-qknorm",
        "not-two-at-once",
        "skipless-elimination",
        "attn-skip-elimination",
        "mlp-skip-only-elimination",
        "shared-wq-elimination",
    ),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=four_variants,
    also=stacks_and_biases,
    special={"count": counted},
    settings=lambda s: square_keys(s) and not s.biases,
    deep=True,
    controls=(
        Control("H1", "every skip present: the MLP's skip carries the old basis past it", both_skips),
        Control("H1", "asking for it with every skip", both_skips_refused, refused="one choice per segment"),
        Control(
            "H2",
            "one key head: $W_Q$ repeats its columns, and has a pseudo-inverse only",
            repeated_columns,
            lanes=("numeric",),
        ),
        Control(
            "H2",
            "asking for $W_K=I$ with one key head",
            narrow_key_refused,
            lanes=("exact", "numeric"),
            refused="square",
        ),
        Control("H2", "asking for it with a $W_Q$ narrower than the stream", narrow_query_refused, refused="square"),
        Control("H3", "a generalized inverse of a singular $W_Q$", singular_query),
        Control("H3", "asking for it with a singular $W_Q$", singular_query_refused, refused="invertible"),
        Control("H4", "$W_Q=W_K$ but $b_Q\\ne b_K$: one row of biases for both", untied_biases),
        Control("construction", "$W_VW_Q^{-1}$ in the place of $W_Q^{-1}W_V$", wrong_side),
    ),
)
