"""Does it apply to your model?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import verdicts
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.your_model.features import FEATURES, VOCAB, Feature, measured, untied
from qkvtheory.lanes.settings import Setting
from qkvtheory.network import Network

CHAPTER = "your-model"
TOKENS = np.eye(VOCAB)
Row = tuple[str, int]


def row(w: Any, verdict: Row) -> Any:
    """A form and a number of layers as a row of two numbers."""
    form, layers = verdict
    return np.array([[list(verdicts.FORMS).index(form), layers]]) * w.identity("1")


def found(network: Network, which: str) -> Row:
    best = verdicts.verdict(network, TOKENS, which)[0]
    return best.form, best.layers


def every_feature(w: Any) -> Pairs:
    """On the network of every feature the constructions are tried: the best outcome is the one in the table."""
    pairs = []
    for feature in FEATURES:
        for which in "QKV":
            best = measured(feature, which)[0]
            pairs.append((row(w, (best.form, best.layers)), row(w, feature.expected[which])))
    return pairs


def named(name: str) -> Feature:
    return next(feature for feature in FEATURES if feature.name == name)


def networks(name: str) -> Network:
    return named(name).build(np.random.default_rng(0))


def swapped(w: Any) -> Pairs:
    """The verdicts of two features exchanged."""
    one, other = named("both skips, no norm"), named("RMSNorm before each sublayer, both skips")
    return [(row(w, found(networks(a.name), "Q")), row(w, b.expected["Q"])) for a, b in ((one, other), (other, one))]


def singular_queries(w: Any) -> Pairs:
    """All query matrices lose a direction."""
    net = networks("both skips, no norm")
    drop = np.diag([1.0] * (net.embedding.shape[1] - 1) + [0.0])
    blocks = [replace(b, attention=replace(b.attention, W_Q=b.attention.W_Q @ drop)) for b in net.blocks]
    return [(row(w, found(replace(net, blocks=blocks), "Q")), row(w, ("I", 1)))]


def unknown_norm(w: Any) -> Pairs:
    """A norm that is some function: nothing is known of it, so nothing is promised."""
    net = networks("RMSNorm before each sublayer, both skips")
    blocks = [replace(b, attention_norm=np.tanh, mlp_norm=np.tanh) for b in net.blocks]
    return [(row(w, found(replace(net, blocks=blocks, norm=np.tanh), "Q")), row(w, ("R", 1)))]


def less_restrictive(w: Any) -> Pairs:
    """Two features at once, and of their two verdicts the better one."""
    tied, normed = named("tied embedding, both skips"), named("tied embedding, RMSNorm with gains, both skips")
    return [(row(w, found(networks(normed.name), "Q")), row(w, tied.expected["Q"]))]


def untied_by_a_copy(w: Any) -> Pairs:
    """A readout of its own makes a rotation possible where a gain stands before a tied one."""
    names = (
        "tied embedding, RMSNorm with gains, both skips",
        "LayerNorm, biases, learned positions, tied, both skips",
    )
    return [(row(w, found(untied(networks(name)), "Q")), row(w, ("R", 1))) for name in names]


def identity_under_a_norm(w: Any) -> Pairs:
    """The other weights rewritten and W_Q = I, as if the norms were not there."""
    net = networks("RMSNorm before each sublayer, both skips")
    bare = replace(net, norm=None, blocks=[replace(b, attention_norm=None, mlp_norm=None) for b in net.blocks])
    moved = verdicts.eliminated(bare, "Q", [1])
    back = [
        replace(new, attention_norm=old.attention_norm, mlp_norm=old.mlp_norm)
        for new, old in zip(moved.blocks, net.blocks, strict=True)
    ]
    return [(replace(moved, norm=net.norm, blocks=back)(TOKENS), net(TOKENS))]


def one_setting(s: Setting) -> bool:
    """The networks are those of the features; the setting only lends its tolerance."""
    return s.name == "multi-head attention"


FEATURE_MAP = Claim(
    id="feature-map",
    rank="remark",
    chapter=CHAPTER,
    title="Feature by feature",
    statement=(
        "For a network of one row of the table, with generic weights, the best that changes of basis of the stream can do for $W_Q$, $W_K$ and "
        "$W_V$, and with one head the merge of its matrices, is what the row says: the identity (I), a selection of coordinates (S), a triangle, "
        "by a rotation (R), or nothing. Every row is a small random network on which each of these constructions is tried and its function "
        "compared. Features act on each other, so several at once have to be tried together. Not counted: the blocks that bases inside the heads "
        "fix in every layer, and what added hidden units or learned skips can buy."
    ),
    hypotheses=(
        Hypothesis("H1", "generic weights", "the weights have full rank and moderate condition numbers, in float64"),
        Hypothesis("H2", "known parts", "norms are RMSNorm or LayerNorm, so that a construction can look into them"),
        Hypothesis("H3", "all features", "every feature of the network is taken into account"),
    ),
    sources=(Source("derived", note="the verdicts; the constructions are those of the claims named in each row"),),
    uses=(
        "skipless-elimination",
        "attn-skip-elimination",
        "mlp-skip-only-elimination",
        "attn-skip-tied",
        "one-layer-free",
        "parallel-global",
        "shared-wq-elimination",
        "single-head-merge",
        "column-selection",
        "wide-query",
        "gain-folding",
        "layernorm-centring",
        "rms-triangular",
        "tied-readout-orthogonal",
    ),
    lanes=("numeric",),
    sides=every_feature,
    also=untied_by_a_copy,
    settings=one_setting,
    controls=(
        Control("H1", "query matrices that lost a direction", singular_queries, lanes=("numeric",)),
        Control("H2", "norms that cannot be looked into", unknown_norm, lanes=("numeric",)),
        Control("H3", "of two features the less restrictive verdict", less_restrictive, lanes=("numeric",)),
        Control("construction", "the verdicts of two features exchanged", swapped, lanes=("numeric",)),
        Control("construction", "$W_Q=I$ claimed under RMSNorm", identity_under_a_norm, lanes=("numeric",)),
    ),
)

LEFT_OUT: dict[str, str] = {
    "family-examples": "a table of public checkpoints, to be read from their own configuration files",
    "checklist": "ten questions to ask of a model; the page asks them, and verdicts.verdict answers for a network at hand",
}
CLAIMS: tuple[Claim, ...] = (FEATURE_MAP,)
