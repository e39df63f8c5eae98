"""Products that the account of a run would miss are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import qkvtheory
from qkvtheory.lanes.counting import macs

W = np.arange(16.0).reshape(4, 4)
OTHERS = {
    "dot": lambda x: x.dot(W),
    "dot of the left": lambda x: np.dot(x, W),
    "dot of the right": lambda x: np.dot(W, x.T),
    "vdot": lambda x: np.vdot(x, x),
    "inner": lambda x: np.inner(x, W),
    "outer": lambda x: np.outer(x[0], x[1]),
    "kron": lambda x: np.kron(W, x),
    "einsum": lambda x: np.einsum("ij,jk->ik", x, W),
    "einsum of the right": lambda x: np.einsum("ij,jk", W, x.T),
    "tensordot": lambda x: np.tensordot(x, W, 1),
    "convolve": lambda x: np.convolve(x[0], W[0]),
    "correlate": lambda x: np.correlate(W[0], x[0]),
    "multi_dot": lambda x: np.linalg.multi_dot([W, W, x.T]),
    "solve": lambda x: np.linalg.solve(W, x.T),
    "inv": lambda x: np.linalg.inv(x.T[:3]),
    "pinv": lambda x: np.linalg.pinv(x),
    "multiply": lambda x: np.multiply.outer(x, W),
    "cov": lambda x: np.cov(x),
}
LATER = ("vecdot", "matvec", "vecmat")  # of later versions of NumPy
OTHERS |= {name: lambda x, name=name: getattr(np, name)(W, x[:1]) for name in LATER if hasattr(np, name)}
OTHERS |= {f"linalg {n}": lambda x, n=n: getattr(np.linalg, n)(x, x) for n in ("vecdot",) if hasattr(np.linalg, n)}


@pytest.mark.parametrize("name", OTHERS)
def test_a_product_in_another_form_is_refused(name):
    called = name.removeprefix("linalg ").partition(" ")[0]
    with pytest.raises(TypeError, match=f"^'{called}' is a product that is not counted; write it with @"):
        macs(OTHERS[name], np.ones((3, 4)))


@pytest.mark.parametrize("product", [
    lambda x: x @ W,
    lambda x: W.T @ x.T,
    lambda x: np.matmul(x, W),
    lambda x: np.matmul(x, W, out=np.zeros((3, 4))),
    lambda x: x.__imatmul__(W),
])  # fmt: skip
def test_the_forms_of_matmul_are_counted(product):
    assert macs(product, np.ones((3, 4))) == 3 * 4 * 4


def test_no_sublayer_multiplies_by_a_method_that_cannot_be_seen():
    """A plain ``W.dot(x)`` reaches no counted x, so the sources must have none."""
    sources = sorted(Path(qkvtheory.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    assert not [s.name for s in sources if re.search(r"\.v?dot\(", s.read_text(encoding="utf-8"))]
