"""Which of the Query, Key and Value projections does attention need, and what does dropping one cost?

The package beside the book: constructions on weights that keep a network's function, and the checks that say so.
Row vectors throughout: a stream X is n x d and weights act on the right.

>>> import numpy as np
>>> from qkvtheory import Attention, Heads, reparametrize
>>> rng = np.random.default_rng(0)
>>> W_Q, W_K, W_V, W_O = (rng.normal(size=(8, 8)) for _ in range(4))
>>> attention = Attention(Heads(2), W_Q, W_K, W_V, W_O)
>>> theta, without_query = reparametrize(attention, "Q")      # W_Q is now the identity
>>> X = rng.normal(size=(5, 8))
>>> bool(np.allclose(without_query(X @ theta), attention(X)))
True
"""

from qkvtheory.attention import Heads, causal, prefix, sliding_window
from qkvtheory.gauge import change_basis, rebase, reparametrize
from qkvtheory.linalg import ConditionWarning, HypothesisError, condition, inverse, right_inverse
from qkvtheory.network import MLP, Attention, Block, Network
from qkvtheory.norms import LayerNorm, RMSNorm
from qkvtheory.stacks import conjugate, eliminate, eliminate_queries, explain

__version__ = "0.4.0"
__all__ = [
    "MLP",
    "Attention",
    "Block",
    "ConditionWarning",
    "Heads",
    "HypothesisError",
    "LayerNorm",
    "Network",
    "RMSNorm",
    "causal",
    "change_basis",
    "condition",
    "conjugate",
    "eliminate",
    "eliminate_queries",
    "explain",
    "inverse",
    "prefix",
    "rebase",
    "reparametrize",
    "right_inverse",
    "sliding_window",
]
