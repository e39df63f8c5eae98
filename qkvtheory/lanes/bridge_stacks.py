"""The bridges of whole networks: what the Python of ``network`` and ``stacks`` does, printed as lemmas.

A construction is run on a network of symbols. The network before and the network after are printed by the same
function, and the lemma says that the definition proved in ``proofs/Skipless.v``, ``proofs/EverySkip.v`` or
``proofs/SharedQueries.v`` takes the one to the other, biases, norms and skips included. A forward pass is run on
matrices that only write themselves down, and must be the definition as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qkvtheory.lanes.rocq import Term, atom, rocq
from qkvtheory.lanes.symbols import (
    LETTERS,
    Code,
    attention,
    basis,
    biases_of,
    block,
    changed_block,
    inside,
    lemma,
    record,
)
from qkvtheory.network import normed
from qkvtheory.words import opaque, symbol

HEADER = "From QKV Require Import Skipless AttentionSkip EverySkip SharedQueries QueriesEqualKeys.\n"

SHORT = {"b_Q": "bQ", "b_K": "bK", "b_V": "bV", "b_O": "bO", "b_up": "bU", "b_down": "bD"}
TOPOLOGIES = {"T0": (False, False), "TA": (True, False), "TM": (False, True), "T2": (True, True)}
NORM = "'M[R]_(n, d) -> 'M[R]_(n, d)"

# -- networks of two blocks, printed -----------------------------------------------------------------------------------


def layer(code: Code, number: int, skips: str, square: str = "", norm: str = "", **others: Any) -> Any:
    """A block with all biases, whose letters end in its number; ``skips``: one of the four topologies."""
    tag = f"^{number}"
    if norm:
        others[norm] = opaque(f"{norm}{tag}")
    return block(code, *TOPOLOGIES[skips], biases=True, square=square, tag=tag, **others)


def network(code: Code, *blocks: Any, tied: bool = False) -> Any:
    readout = None if tied else symbol("U", "d", "w")
    return code.Network(symbol("E", "v", "d"), list(blocks), readout, symbol("P", "n", "d"))


def numbered(i: int) -> dict[str, str]:
    """What the letters of block ``i`` are called."""
    names = inside(f"b{i}", f"^{i}") | {f"{name}^{i}": f"{short}{i}" for name, short in SHORT.items()}
    return names | {f"attention_norm^{i}": f"norm{i}", f"mlp_norm^{i}": f"norm{i}'"}


NAMES = LETTERS | numbered(1) | numbered(2) | {"Theta": "T"}
NAMES |= {name: name for name in ("E", "P", "U", "W", "T0", "T1", "T2", "T3", "T4")}


def variables(square: Sequence[str] = ("", ""), norms: bool = False, readout: str = "w") -> str:
    """The variables of a statement about two blocks, with their shapes."""
    sizes, typed = ("n d v" if readout == "v" else f"n d v {readout}"), ""
    for i, letters in zip("12", square, strict=True):
        q, k, v = ("d" if letter in letters else f"{letter.lower()}{i}" for letter in "QKV")
        shape = f"{q} {k} {v} e{i} h{i} g{i}"
        sizes += "".join(f" {size}" for size in shape.split() if size != "d")
        typed += f" (b{i} : block R n d {shape})"
        rows = zip(SHORT.values(), (q, k, v, "d", f"h{i}", "d"), strict=True)
        typed += "".join(f" ({row}{i} : 'rV[R]_{width})" for row, width in rows)
        typed += f" (norm{i} norm{i}' : {NORM})" if norms else ""
    return f"{sizes}{typed} (E : 'M[R]_(v, d)) (P : 'M[R]_(n, d)) (U : 'M[R]_(d, {readout}))"


def stage(old: Any, names: Mapping[str, str] = NAMES, width: str = "d") -> str:
    """A block as a stage: its biases are 0 where it has none, its norms the identity function. ``width``: of rows."""
    x = symbol("X", "n", "d")
    rows = ["0" if row is None else atom(rocq(row, names)) for row in biases_of(old)]
    norms = [
        f"(fun X : 'M[R]_(n, {width}) => {rocq(normed(norm, x), names)})" for norm in (old.attention_norm, old.mlp_norm)
    ]
    return " ".join([f"Stage ({changed_block(old, names)})", *rows, *norms, str(old.parallel).lower()])


def ends(net: Any, names: Mapping[str, str] = NAMES) -> tuple[str, str, str]:
    """Embedding, position table and readout; a tied readout is the transposed embedding."""
    readout = net.embedding.mT if net.readout is None else net.readout
    E, P, U = (atom(rocq(word, names)) for word in (net.embedding, net.positions, readout))
    return E, P, U


def stacked(net: Any) -> str:
    E, P, U = ends(net)
    return f"Stack {E} {P} [:: {'; '.join(map(stage, net.blocks))}] {U}"


# -- forward passes ----------------------------------------------------------------------------------------------------


def written(code: Code, number: int, skips: str, norms: bool = False, **others: Any) -> Any:
    """A block of matrices that write themselves down, with the names it has in ``variables``."""
    b, i = f"b{number}", number
    a = {f"W_{x}": Term(f"W_{x} (attn {b})") for x in "QKVO"}
    rows = {name: Term(f"{short}{i}", row=True) for name, short in SHORT.items()}
    inner = code.Attention(Term.function(f"core (attn {b})"), **a, **{n: r for n, r in rows.items() if len(n) == 3})
    mlp = code.MLP(Term.function(f"act {b}"), Term(f"W_up {b}"), Term(f"W_down {b}"), rows["b_up"], rows["b_down"])
    if norms:
        others |= {"attention_norm": Term.function(f"norm{i}"), "mlp_norm": Term.function(f"norm{i}'")}
    return code.Block(inner, mlp, *TOPOLOGIES[skips], **others)


def unchanged(number: int, skips: str, norms: bool = False, parallel: bool = False) -> str:
    """The stage of ``written``."""
    b, i = f"b{number}", number
    flags = " ".join(str(skip).lower() for skip in TOPOLOGIES[skips])
    rows = " ".join(f"{short}{i}" for short in SHORT.values())
    norm = f"norm{i} norm{i}'" if norms else "id id"
    return f"Stage (Block (attn {b}) (act {b}) (W_up {b}) (W_down {b}) {flags}) {rows} {norm} {str(parallel).lower()}"


PASSES = [(skips, norms, False) for skips in TOPOLOGIES for norms in (False, True)]
PASSES += [(skips, norms, True) for skips in ("T0", "TA") for norms in (False, True)]


def bridge_run_stage(code: Code) -> str:
    """One block in every topology, serial and parallel, with norms and without."""
    facts = []
    for skips, norms, parallel in PASSES:
        value = written(code, 1, skips, norms, parallel=parallel)(Term("X"))
        facts.append(f"run_stage ({unchanged(1, skips, norms, parallel)}) X = {value}")
    return lemma("bridge_run_stage", f"{variables(norms=True)} X", conjunction(facts), "by do ?split")


def conjunction(facts: Sequence[str]) -> str:
    return " /\\\n  ".join(facts)


def bridge_run_stack(code: Code) -> str:
    """A network of two blocks: embedding, positions, blocks in order, readout of its own or tied."""
    facts = []
    for readout in (Term("U"), None):
        net = code.Network(Term("E"), [written(code, 1, "TA"), written(code, 2, "TM")], readout, Term("P"))
        old = f"Stack E P [:: {unchanged(1, 'TA')}; {unchanged(2, 'TM')}] {'E^T' if readout is None else 'U'}"
        facts.append(f"run_stack ({old}) tokens = {net(Term('tokens'))}")
    return lemma("bridge_run_stack", f"{variables(readout='v')} tokens", conjunction(facts), "by do ?split")


# -- one basis per state -----------------------------------------------------------------------------------------------

UNITS = "?invmx1 ?mulmx1 ?mul1mx"
CARRIED = f"by rewrite /carry_stack /= /rebase_stage /rebase3 /rebase_parallel /= {UNITS}"


def bridge_carry(
    name: str, skips: str, bases: str, plan: str, norms: Sequence[str] = ("", ""), **others: Any
) -> Callable[[Code], str]:
    """``bases``: those given to the Python, - for none; ``plan``: those of the theorem, which are all named.

    ``norms``: one in each block, before a read of a state that stays as it is.
    """

    def bridge(code: Code) -> str:
        old = network(
            code, *(layer(code, i, skips, norm=norm, **others) for i, norm in zip((1, 2), norms, strict=True))
        )
        new = code.carry(old, [None if name == "-" else basis(name) for name in bases.split()])
        E, P, U = ends(old)
        *moved, last = plan.split()
        one, two = (
            f"({stage(b)}, ({enter}, {middle}))"
            for b, enter, middle in zip(old.blocks, moved[::2], moved[1::2], strict=True)
        )
        statement = f"carry_stack {E} {P} [:: {one}; {two}] {last} {U} = {stacked(new)}"
        used = " ".join(name for name in dict.fromkeys(plan.split()) if name.startswith("T"))
        return lemma(f"bridge_{name}", f"{variables(norms=any(norms))} ({used} : 'M[R]_d)", statement, CARRIED)

    return bridge


def bridge_conjugate(code: Code) -> str:
    """One basis everywhere: a parallel block with its skip, then a block with both."""
    old = network(code, layer(code, 1, "TA", parallel=True), layer(code, 2, "T2"))
    new = code.conjugate(old, basis("Theta"))
    statement = f"conjugate_stack T ({stacked(old)}) = {stacked(new)}"
    return lemma("bridge_conjugate", f"{variables()} (T : 'M[R]_d)", statement)


# -- eliminations ------------------------------------------------------------------------------------------------------

CHOSEN = "/eliminate_stack /eliminate /bases /queries /= /rebase_stage /rebase3 /rebase_parallel /dictated"
CHOSEN += " /= /query /projection /square /= !conform_mx_id"


WORDS = {"Q": "Query", "K": "Key", "V": "Value"}


def unit(number: int, letter: str) -> str:
    return f"W_{letter} (attn b{number}) \\in unitmx"


def bridge_eliminate_all(name: str, skips: str, **others: Any) -> Callable[[Code], str]:
    """W_Q = I in both blocks; where the Python sets I, the theorem has W_Q^-1 W_Q."""

    def bridge(code: Code) -> str:
        old = network(code, *(layer(code, i, skips, square="Q", **others) for i in (1, 2)))
        new = code.eliminate(old, "Q")
        statement = f"{unit(1, 'Q')} -> {unit(2, 'Q')} ->\n  without_queries ({stacked(old)}) = {stacked(new)}"
        proof = f"by move=> *; rewrite /without_queries {CHOSEN} !mulVmx // {UNITS}"
        return lemma(f"bridge_{name}", variables(("Q", "Q")), statement, proof)

    return bridge


def bridge_eliminate(name: str, skips: Sequence[str], letters: Sequence[str]) -> Callable[[Code], str]:
    """A letter for each layer, and a topology for each."""

    def bridge(code: Code) -> str:
        blocks = [layer(code, i, one, square=letter) for i, one, letter in zip((1, 2), skips, letters, strict=True)]
        old = network(code, *blocks)
        new = code.eliminate(old, letters)
        E, P, U = ends(old)
        plan = "; ".join(f"({stage(b)}, {WORDS[letter]})" for b, letter in zip(blocks, letters, strict=True))
        premises = " -> ".join(unit(i, letter) for i, letter in zip((1, 2), letters, strict=True))
        statement = f"{premises} ->\n  eliminate_stack {E} {P} [:: {plan}] {U} = {stacked(new)}"
        proof = f"by move=> *; rewrite {CHOSEN} !mulVmx // {UNITS}"
        return lemma(f"bridge_{name}", variables(letters), statement, proof)

    return bridge


def bridge_eliminate_tied(code: Code) -> str:
    """The readout is tied to the embedding, and the first layer keeps its W_Q."""
    old = network(code, layer(code, 1, "TA"), layer(code, 2, "TA", square="Q"), tied=True)
    new = code.eliminate(old, "Q", layers=[1])
    E, P, U = ends(old)
    one, two = map(stage, old.blocks)
    made = f"Stack {E} {P} (carry (thread (tied_bases ({one}) [:: {two}])) 1%:M) {U} = {stacked(new)}"
    proof = f"by move=> *; rewrite /tied_bases /= {CHOSEN} !mulVmx // {UNITS}"
    return lemma("bridge_eliminate_tied", variables(("", "Q"), readout="v"), f"{unit(2, 'Q')} ->\n  {made}", proof)


def bridge_one_layer(code: Code) -> str:
    """Every skip is there, and the second layer loses its W_Q."""
    old = network(code, layer(code, 1, "T2"), layer(code, 2, "T2", square="Q"))
    new = code.eliminate(old, "Q", layers=[1])
    made = f"conjugate_stack (query ({stage(old.blocks[1])})) ({stacked(old)}) = {stacked(new)}"
    proof = f"by move=> *; rewrite /conjugate_stack /= /conjugate {CHOSEN} !mulVmx"
    return lemma("bridge_one_layer", variables(("", "Q")), f"{unit(2, 'Q')} ->\n  {made}", proof)


def bridge_shared_queries(code: Code) -> str:
    """Every skip is there, and both layers have the query projection W."""
    blocks = [layer(code, i, "T2", square="Q") for i in (1, 2)]
    W = basis("W")
    old = network(code, *(replace(b, attention=replace(b.attention, W_Q=W)) for b in blocks))
    new = code.eliminate(old, "Q")
    made = f"W \\in unitmx ->\n  conjugate_stack W ({stacked(old)}) = {stacked(new)}"
    proof = "by move=> *; rewrite /conjugate_stack /= /conjugate /rebase_stage /rebase3 /= !mulVmx"
    return lemma("bridge_shared_queries", f"{variables(('Q', 'Q'))} (W : 'M[R]_d)", made, proof)


# -- other constructions -----------------------------------------------------------------------------------------------


def bridge_merge_outputs(code: Code) -> str:
    """W_O goes into W_up, with its bias: the layer that is left, and its forward pass."""
    old, facts = layer(code, 1, "T0"), []
    for b in (old, replace(old, mlp=replace(old.mlp, b_up=None))):
        (new,) = code.merge_outputs(network(code, b)).blocks
        facts.append(f"merge ({stage(b)}) = {merged(new)} /\\ 1%:M = {rocq(new.attention.W_O, NAMES)} :> 'M[R]_e1")
    value = written(code, 1, "T0")
    left = replace(value.attention, W_O=Term("1%:M"), b_O=None)
    up = {"W_up": Term("W_O (attn b1) *m W_up b1"), "b_up": Term("(bO1 *m W_up b1 + bU1)", row=True)}
    value = replace(value, attention=left, mlp=replace(value.mlp, **up))(Term("X"))
    facts.append(f"forall X, run_merged (merge ({unchanged(1, 'T0')})) X = {value}")
    proof = "by do ?split; rewrite /merge /run_merged //= ?addr0 1?[bU1 + _]addrC // => X; rewrite mulmx1"
    return lemma("bridge_merge_outputs", variables(), conjunction(facts), proof)


def merged(new: Any) -> str:
    """A block with W_O = I as a layer that has none. A bias b_O would be left over: it is printed, and does not fit."""
    a, mlp = new.attention, new.mlp
    q, k, v = (symbol(name, "n", weight.cols) for name, weight in zip("qkv", (a.W_Q, a.W_K, a.W_V), strict=True))
    core = f"(fun q k v => {rocq(a.core(q, k, v), NAMES)})"
    act = f"(fun h => {rocq(mlp.act(symbol('h', 'n', mlp.W_up.cols)), NAMES)})"
    rows = [a.b_Q, a.b_K, a.b_V, mlp.b_up, mlp.b_down, *([] if a.b_O is None else [a.b_O])]
    words = [atom(rocq(word, NAMES)) for word in (a.W_Q, a.W_K, a.W_V)]
    words += [act, *(atom(rocq(word, NAMES)) for word in (mlp.W_up, mlp.W_down, *rows))]
    return " ".join(["Merged", core, *words])


def bridge_learned_skips(code: Code) -> str:
    """Two learned skips become identities: every weight and bias meets the product of the skips still to come, or its
    inverse. The Python writes the inverse of a product as a product of inverses, so Rocq is told that they are one.
    """
    A, B = basis("A"), basis("B")
    old = network(code, replace(layer(code, 1, "T0"), attention_skip=A, mlp_skip=B))
    new, names = code.remove_learned_skips(old), NAMES | {"A": "A 0%N", "B": "A 1%N"}
    first, middle, last = (f"(skips_from A {k} {2 - k})" for k in range(3))
    reads = [*((first, f"W_{x} (attn b1)") for x in "QKV"), (middle, "W_up b1")]
    writes = [(E, first) for E in ("E", "P")] + [(W, middle) for W in ("W_O (attn b1)", "bO1")]
    writes += [(W, last) for W in ("W_down b1", "bD1")]
    proved = [f"invmx {later} *m {read}" for later, read in reads] + [f"{write} *m {later}" for write, later in writes]
    (b,) = new.blocks
    made = [b.attention.W_Q, b.attention.W_K, b.attention.W_V, b.mlp.W_up, new.embedding, new.positions]
    made += [b.attention.W_O, b.attention.b_O, b.mlp.W_down, b.mlp.b_down]
    facts = [f"{left} = {rocq(word, names)}" for left, word in zip(proved, made, strict=True)]
    stay = zip(("bQ1", "bK1", "bV1", "bU1", "U"), (*biases_of(b)[:3], b.mlp.b_up, new.readout), strict=True)
    facts += [f"{row} = {rocq(word, names)}" for row, word in stay]
    (carried,) = code.carry(old, [A @ B, B, None]).blocks  # the same bases, with the skips that these leave
    for skip, left in ((b.attention_skip, carried.attention_skip), (b.mlp_skip, carried.mlp_skip)):
        facts += [f"true = {str(skip).lower()}", f"1%:M = {rocq(left, names)} :> 'M[R]_d"]
    statement = f"A 0%N \\in unitmx -> A 1%N \\in unitmx ->\n  {conjunction(facts)}"
    proof = f"move=> A_inv B_inv; {PRODUCT}by rewrite /= !mulmx1 product; do ?split; rewrite ?mulmxA"
    return lemma("bridge_learned_skips", f"{variables()} (A : nat -> 'M[R]_d)", statement, proof)


PRODUCT = """have product : invmx (A 0%N *m A 1%N) = invmx (A 1%N) *m invmx (A 0%N).
  rewrite -[RHS](mulKmx (_ : A 0%N *m A 1%N \\in unitmx)) ?unitmx_mul ?A_inv //.
  by rewrite -mulmxA mulKVmx // mulmxV // mulmx1.
"""


def bridge_run_learned(code: Code) -> str:
    """A block with two learned skips, as a chain of two sublayers that read and write through one matrix each."""
    reads, writes, skips = ([Term(f"{x} {k}%N") for k in range(2)] for x in ("reads", "writes", "A"))
    inner = code.Attention(lambda q, k, v: Term.function("f 0%N")(q), *(reads[:1] * 3), writes[0])
    mlp = code.MLP(Term.function("f 1%N"), reads[1], writes[1])
    value = code.Block(inner, mlp, *skips)(Term("X"))
    variables = (
        "n d (r c : nat -> nat) (f : forall k, 'M[R]_(n, r k) -> 'M[R]_(n, c k)) (A : nat -> 'M[R]_d) "
        "(reads : forall k, 'M[R]_(d, r k)) (writes : forall k, 'M[R]_(c k, d)) X"
    )
    return lemma("bridge_run_learned", variables, f"state f A reads writes X 2 = {value}")


# -- encoder and decoder -----------------------------------------------------------------------------------------------

DECODER = (
    "n m d dz dq dk dv e fq fk fv fe h1 h2 (a : attention R n n d d dq dk dv e d) "
    "(c : attention R n m d dz fq fk fv fe d) (act : 'M[R]_(n, h1) -> 'M[R]_(n, h2)) "
    "(up : 'M[R]_(d, h1)) (down : 'M[R]_(h2, d)) (bO bC bD : 'rV[R]_d)"
)
IN_DECODER = LETTERS | {f"W_{x}'": f"W_{x} c" for x in "QKVO"} | {"core'": "core c", "b_O'": "bC", "act": "act"}
IN_DECODER |= {"W_up": "up", "W_down": "down", "Phi": "F"}


def decoder_layer(code: Code) -> Any:
    """Self-attention, cross-attention, MLP, with biases at the three writes."""
    new = block(code, True, True)
    far = replace(attention(code, memory="z", out="d", tag="'"), b_O=symbol("b_O'", "1", "d"))
    inner = replace(new.attention, b_O=symbol("b_O", "1", "d"))
    return replace(new, attention=inner, mlp=replace(new.mlp, b_down=symbol("b_down", "1", "d")), cross=far)


def decoder_record(b: Any) -> str:
    """A decoder layer as a Rocq record; None in place of a skip, or a bias that it has not, does not fit."""
    rows = [atom(rocq(row, IN_DECODER)) for row in (b.attention.b_O, b.cross.b_O, b.mlp.b_down)]
    reads = [getattr(one, name) for one in (b.attention, b.cross) for name in ("b_Q", "b_K", "b_V")]
    if [b.attention_skip, b.mlp_skip, *reads, b.mlp.b_up] != [True, True, *[None] * 7]:
        raise ValueError("a decoder layer of the theorem has both skips, and no biases but those of its writes")
    h = symbol("h", "n", b.mlp.W_up.cols)
    act = f"(fun h => {rocq(b.mlp.act(h), IN_DECODER)})"
    weights = f"{act} {atom(rocq(b.mlp.W_up, IN_DECODER))} {atom(rocq(b.mlp.W_down, IN_DECODER))}"
    halves = [f"({record(one, IN_DECODER)}) {row}" for one, row in zip((b.attention, b.cross), rows, strict=False)]
    return " ".join(["DecoderLayer", *halves, weights, rows[2]])


def bridge_conjugate_decoder(code: Code) -> str:
    """One basis for the stream of the decoder, one for the memory."""
    old = decoder_layer(code)
    (new,) = code.conjugate(network(code, old), basis("Theta"), basis("Phi", "z")).blocks
    statement = f"conjugate_decoder T F ({decoder_record(old)}) = {decoder_record(new)}"
    return lemma("bridge_conjugate_decoder", f"{DECODER} (T : 'M[R]_d) (F : 'M[R]_dz)", statement)


def bridge_run_decoder(code: Code) -> str:
    """A forward pass of a decoder layer."""
    inner, far = (
        code.Attention(Term.function(f"core {a}"), *(Term(f"W_{x} {a}") for x in "QKVO"), b_O=Term(row, row=True))
        for a, row in (("a", "bO"), ("c", "bC"))
    )
    mlp = code.MLP(Term.function("act"), Term("up"), Term("down"), b_down=Term("bD", row=True))
    value = code.Block(inner, mlp, True, True, cross=far)(Term("X"), Term("Z"))
    statement = f"run_decoder_layer (DecoderLayer a bO c bC act up down bD) Z X = {value}"
    return lemma("bridge_run_decoder", f"{DECODER} X Z", statement)


# -- one layer ---------------------------------------------------------------------------------------------------------


def bridge_align_heads(code: Code) -> str:
    """W_Q = W D becomes W, and W_K becomes W_K D^T, for a D with one block on its diagonal for each head."""
    old = attention(code, square="QK", biases=True)
    old = replace(old, W_Q=basis("W") @ symbol("D", "d", "d"), b_Q=None, b_K=None)
    new = code.align_heads(old, basis("W"))
    names = LETTERS | {f"W_{x}": f"W{x}" for x in "KVO"} | {"W": "W", "D": "(\\mxdiag_h B h)", "core": "score_core g"}
    sizes = (
        "n H (p : 'I_H -> nat) dv e dout (g : 'M[R]_(n, \\sum_(h < H) n) -> 'M[R]_(n, dv) -> 'M[R]_(n, e)) "
        "(W : 'M[R]_(\\sum_h p h)) (B : forall h, 'M[R]_(p h)) WK WV (WO : 'M[R]_(e, dout)) "
        "(bV : 'rV[R]_dv) (bO : 'rV[R]_dout)"
    )
    rows = [f"b{x} = {rocq(getattr(new, f'b_{x}'), names)}" for x in "VO"]
    return lemma(
        "bridge_align_heads", sizes, conjunction([f"align_heads g W B WK WV WO = {record(new, names)}", *rows])
    )


def bridge_projections_left(code: Code) -> str:
    """What the elimination of the queries leaves of the three projections and their biases, where some are tied."""
    facts = []
    ties: list[tuple[str, str]]
    for ties in ([], [("K", "V")], [("Q", "K")], [("Q", "K"), ("K", "V")]):
        old = attention(code, square="QKV", biases=True)
        for first, second in ties:
            old = replace(old, **{f"{kind}_{second}": getattr(old, f"{kind}_{first}") for kind in "Wb"})
        _, new = code.reparametrize(old, "Q")
        made = (f"({rocq(getattr(new, f'W_{x}'), LETTERS)}, {rocq(getattr(new, f'b_{x}'), LETTERS)})" for x in "QKV")
        tied = [f"(W_{x} a, b{x}) = (W_{y} a, b{y}) -> " for x, y in ties]
        facts.append(f"({''.join(tied)}projections (without_q a) bQ bK bV = ({', '.join(made)}))")
    proof = (
        "move=> Q_inv; rewrite /projections /=; split=> //; split=> [[<- <-]|] //; split=> [[<- <-]|[<- <-] [<- <-]]"
    )
    variables = "n d e dout (a : attention R n n d d d d d e dout) bQ bK bV"
    statement = f"W_Q a \\in unitmx ->\n  {conjunction(facts)}"
    return lemma("bridge_projections_left", variables, statement, f"by {proof}; rewrite mulVmx")


BRIDGES: dict[str, Callable[[Code], str]] = {
    "run_stage": bridge_run_stage,
    "run_stack": bridge_run_stack,
    "carry_skipless": bridge_carry("carry_skipless", "T0", "T0 T1 T2 T3 T4", "T0 T1 T2 T3 T4"),
    "carry_attention_skip": bridge_carry("carry_attention_skip", "TA", "T0 - T2 - T4", "T0 T0 T2 T2 T4"),
    "carry_mlp_skip": bridge_carry("carry_mlp_skip", "TM", "T0 - T2 - T4", "T0 T2 T2 T4 T4"),
    "carry_parallel": bridge_carry("carry_parallel", "T0", "T0 - T2 - T4", "T0 1%:M T2 1%:M T4", parallel=True),
    "carry_norms": bridge_carry(
        "carry_norms", "T0", "- T1 T2 - T4", "1%:M T1 T2 1%:M T4", norms=("attention_norm", "mlp_norm")
    ),
    "conjugate": bridge_conjugate,
    "eliminate_skipless": bridge_eliminate_all("eliminate_skipless", "T0"),
    "eliminate_attention_skip": bridge_eliminate_all("eliminate_attention_skip", "TA"),
    "eliminate_mlp_skip": bridge_eliminate_all("eliminate_mlp_skip", "TM"),
    "eliminate_parallel": bridge_eliminate_all("eliminate_parallel", "T0", parallel=True),
    "eliminate_keys": bridge_eliminate("eliminate_keys", ("T0", "T0"), ("K", "K")),
    "eliminate_values": bridge_eliminate("eliminate_values", ("T0", "T0"), ("V", "V")),
    "eliminate_mixed": bridge_eliminate("eliminate_mixed", ("TA", "TM"), ("K", "V")),
    "eliminate_tied": bridge_eliminate_tied,
    "one_layer": bridge_one_layer,
    "shared_queries": bridge_shared_queries,
    "merge_outputs": bridge_merge_outputs,
    "learned_skips": bridge_learned_skips,
    "run_learned": bridge_run_learned,
    "run_decoder": bridge_run_decoder,
    "conjugate_decoder": bridge_conjugate_decoder,
    "align_heads": bridge_align_heads,
    "projections_left": bridge_projections_left,
}
