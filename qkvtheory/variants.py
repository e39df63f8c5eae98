"""The names of the variants of attention: which projections are learned, how many heads share one, and what they are
called elsewhere.

Names follow Kayyam, Madan Gopal and Lewis 2026 (2606.04032): letters joined by "=" share one projection, so Q-K=V has
two, one for queries and one for keys and values. Sharing among heads is written as usual: GQA-4, MQA; with keys equal
to values Q-GQA-4, Q-MQA.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Any

KINDS: dict[str, str] = {
    "QKV": "three projections",
    "Q-K=V": "keys equal to values",
    "Q=K-V": "queries equal to keys",
    "Q=K=V": "one projection",
    "MLA": "keys and values from one latent, and a rotary key that all heads share",
    "GTA": "half of each key is half of its value; the other half is rotary and shared by all heads",
    "QV-Ka": "keys computed from values and a context",
    "slim": "three projections, of which only the keys are cached",
}
GROUPED = ("QKV", "Q-K=V", "GTA")  # kinds whose key/value heads may be shared by several query heads
CORRECTED = ("QKV", "Q-K=V", "Q=K-V", "Q=K=V")  # kinds that the 2D correction is made for
ALIASES = {
    "K=V": "Q-K=V",
    "QV": "Q-K=V",  # Zhang 2026 (2603.15665)
    "KEYLESS": "Q-K=V",  # Gao and Xu 2026 (2606.21848), also QVV(2)
    "QVV(2)": "Q-K=V",
    "Q=K": "Q=K-V",
    "MHA": "QKV",
}
TWO_MEANINGS = "'KV' means Q=K-V in some places (Borji 2023) and Q-K=V in others; write 'Q=K-V' or 'Q-K=V'"
LONGEST = 64  # characters of a name; more is refused unread
CORRECTION = r"\((.+)\)\+|([^(].*)\+"
EXAMPLES = "QKV, Q-K=V, Q=K-V, Q=K=V, (Q=K-V)+, GQA-4, MQA, Q-GQA-4, Q-MQA, MLA, GTA-4, QV-Ka, slim"


@dataclass(frozen=True)
class Variant:
    """``kind``: a key of KINDS. ``groups``: key/value heads, None for one per query head. ``corrected``: with the 2D
    correction of the scores, written (...)+.

    Raises ValueError for a combination that has no meaning, and for fields of another type.
    """

    kind: str = "QKV"
    groups: int | None = None
    corrected: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not isinstance(self.corrected, bool):
            raise ValueError(f"corrected must be True or False, not {self.corrected!r}")
        if self.groups is not None:
            check_size("groups", self.groups)
        if self.groups is not None and self.kind not in GROUPED:
            raise ValueError(f"{self.kind} has one key head for each query head; groups go with {', '.join(GROUPED)}")
        if self.corrected and self.kind not in CORRECTED:
            raise ValueError(f"the 2D correction goes with {', '.join(CORRECTED)}, not with {self.kind}")

    @property
    def name(self) -> str:
        """The one name of this variant in the book.

        >>> Variant("Q-K=V", 4).name, Variant("QKV", 1).name, Variant("Q=K-V", corrected=True).name
        ('Q-GQA-4', 'MQA', '(Q=K-V)+')
        """
        name = self.kind
        if self.groups is not None:
            shared = "MQA" if self.groups == 1 else f"GQA-{self.groups}"
            name = {"QKV": shared, "Q-K=V": f"Q-{shared}", "GTA": f"GTA-{self.groups}"}[self.kind]
        return f"({name})+" if self.corrected else name


def parse(text: str) -> Variant:
    """The variant of this name; capital and small letters are the same.

    Raises ValueError for an unknown name, with one that is near, and for "KV", which has two meanings; TypeError for
    what is no text.

    >>> parse("Q-GQA-4")
    Variant(kind='Q-K=V', groups=4, corrected=False)
    >>> parse("K=V+MQA").name, parse("q=k+").name, parse("keyless").name
    ('Q-MQA', '(Q=K-V)+', 'Q-K=V')
    """
    if not isinstance(text, str):
        raise TypeError(f"a variant is named by a text, such as 'Q-K=V', not by {text!r}")
    if len(text) > LONGEST:
        raise ValueError(f"no variant has a name of {len(text)} characters; expected one of {EXAMPLES}")
    name, corrected = re.sub(r"\s+", "", text).upper(), False
    if found := re.fullmatch(CORRECTION, name):
        name, corrected = found[1] or found[2], True
        if re.fullmatch(CORRECTION, name):
            raise ValueError(f"'{text}' is corrected twice; the correction is written once, as in (Q=K-V)+")
    if name == "KV":
        raise ValueError(TWO_MEANINGS)
    if found := re.fullmatch(r"(Q-|(?:Q-)?K=V\+)?(?:MQA|GQA-([0-9]+))", name):
        return Variant("Q-K=V" if found[1] else "QKV", int(found[2] or 1), corrected)
    if found := re.fullmatch(r"GTA-([0-9]+)", name):
        return Variant("GTA", int(found[1]), corrected)
    kinds = {kind.upper(): kind for kind in KINDS}
    kind = kinds.get(name) or ALIASES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, [*kinds, *ALIASES, "GQA-4", "MQA", "Q-GQA-4", "Q-MQA", "GTA-4"], 1)
        hint = f"did you mean '{kinds.get(near[0], near[0])}'?" if near else f"expected one of {EXAMPLES}"
        raise ValueError(f"there is no variant called '{text}'; {hint}")
    return Variant(kind, None, corrected)


def check_size(name: str, size: Any) -> None:
    """Sizes are whole numbers from 1."""
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise ValueError(f"{name} must be a whole number, not {size!r}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, not {size}")


def weight_shapes(
    variant: Variant, d: int, heads: int, head_width: int | None = None, biases: bool = False
) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that a sublayer of this variant learns, by name.

    ``head_width``: d / heads unless given. MLA takes its usual sizes, a latent of 4 head widths and rotary keys of half
    a head width; GTA a rotary half, QV-Ka a context as wide as a head. ``biases``: of the projections and of W_O, for
    the kinds that are published with them (not MLA, GTA, QV-Ka). Raises ValueError for sizes that are no whole
    numbers from 1 or do not fit, and for an odd head width where half of it is rotary (MLA, GTA).

    >>> weight_shapes(parse("Q-GQA-2"), 8, 4)
    {'W_O': (8, 8), 'W_Q': (8, 8), 'W_Z': (8, 4)}
    """
    sizes = {"d": d, "heads": heads} | ({} if head_width is None else {"head_width": head_width})
    for name, size in sizes.items():
        check_size(name, size)
    if head_width is None and d % heads:
        raise ValueError(f"a width of {d} does not split into {heads} heads; pass head_width")
    width = d // heads if head_width is None else head_width
    if variant.groups is not None and heads % variant.groups:
        raise ValueError(f"{variant.name}: {variant.groups} groups do not divide {heads} heads")
    if variant.kind in ("MLA", "GTA") and width % 2:
        raise ValueError(f"{variant.name} needs an even head width for its rotary half, not {width}")
    p, k, half = heads * width, (variant.groups or heads) * width, width // 2
    own: dict[str, dict[str, tuple[int, ...]]] = {
        "QKV": {"W_Q": (d, p), "W_K": (d, k), "W_V": (d, k)},
        "slim": {"W_Q": (d, p), "W_K": (d, p), "W_V": (d, p)},
        "Q-K=V": {"W_Q": (d, p), "W_Z": (d, k)},
        "Q=K-V": {"W_Z": (d, p), "W_V": (d, p)},
        "Q=K=V": {"W_Z": (d, p)},
        "MLA": {
            "W_Q": (d, heads * (half + width)),
            "W_C": (d, 4 * width),
            "W_UK": (4 * width, p),
            "W_UV": (4 * width, p),
            "W_R": (d, half),
        },
        "GTA": {"W_Q": (d, p), "W_Z": (d, k), "W_R": (d, half)},
        "QV-Ka": {
            "W_Q": (d, p),
            "W_V": (d, p),
            "W_C": (d, width),
            "W_KC": (width, p),
            "W_KV": (heads, width, width),
        },
    }
    shapes = {"W_O": (p, d), **own[variant.kind]}
    if biases and variant.kind not in ("MLA", "GTA", "QV-Ka"):
        shapes |= {f"b_{name[2:]}": (1, shape[1]) for name, shape in shapes.items()}
    return shapes
