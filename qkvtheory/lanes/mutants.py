"""Mutants: wrong versions of a construction, made from its own source, that the checks must notice.

A check that accepts a damaged construction proves nothing. So every construction is damaged in all the ways a person
would
(forget an inverse, drop a replaced weight, swap two, take the other basis, multiply on the wrong side, scale), and each
mutant that is not the same construction must be rejected in every lane.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import Any

from qkvtheory import absorption, energy, gauge, lossless, norms, queries, rotations, stacks, symmetric, tying

MODULES = (gauge, stacks, norms, rotations, absorption, symmetric, lossless, tying, energy, queries)
PROJECTIONS = {"W_Q", "W_K", "W_V"}
ENDS = {"0": -1, "-1": 0}  # an index at one end, and the one at the other
INVERSES = {"inverse", "right_inverse", "invert"}
OPPOSITE: dict[type, type] = {ast.Is: ast.IsNot, ast.Eq: ast.NotEq, ast.In: ast.NotIn}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}
Edit = Callable[[Any], Any]
SAME_KIND = ({"theta", "phi"}, {"enter", "leave", "middle"}, {"back", "back_memory", "back_middle"})


@dataclass(frozen=True)
class Mutant:
    construction: str
    damage: str
    function: FunctionType

    def __str__(self) -> str:
        return f"{self.construction}: {self.damage}"


def home(construction: str) -> Any:
    """The module in which the named construction is defined."""
    return next(module for module in MODULES if construction in vars(module))


@cache
def mutants(construction: str, module: Any = None) -> tuple[Mutant, ...]:
    """Every mutant of the named function of ``module`` (of the module that has it, if none is named)."""
    return tuple(made(construction, module or home(construction)))


def made(construction: str, module: Any) -> Iterator[Mutant]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(module, construction))))
    names = set(getattr(module, construction).__code__.co_varnames)
    for place, node in enumerate(ast.walk(tree)):
        for damage, edit in damages(node, names):
            mutant = Damage(copy.deepcopy(tree), place, edit).visited()
            namespace = {**vars(module), "as_it_is": lambda a, *_: a}
            exec(compile(ast.fix_missing_locations(mutant), f"<mutant of {construction}>", "exec"), namespace)
            yield Mutant(construction, f"{damage} (line {getattr(node, 'lineno', 0)})", namespace[construction])


class Damage(ast.NodeTransformer):
    """Replace the node at one place of a tree by its edited version."""

    def __init__(self, tree: ast.AST, place: int, edit: Edit):
        self.tree, self.edit = tree, edit
        self.target = next(itertools.islice(ast.walk(tree), place, None))

    def visited(self) -> Any:
        return self.visit(self.tree)

    def visit(self, node: ast.AST) -> Any:
        return self.edit(node) if node is self.target else self.generic_visit(node)


@contextmanager
def planted(mutant: Mutant, module: Any = None) -> Iterator[None]:
    """The module with the mutant in the place of the construction."""
    module = module or home(mutant.construction)
    original = getattr(module, mutant.construction)
    setattr(module, mutant.construction, mutant.function)
    try:
        yield
    finally:
        setattr(module, mutant.construction, original)


def damages(node: ast.AST, names: set[str]) -> Iterator[tuple[str, Edit]]:
    """What can be done to this node of a function with these variables: (in words, the edit)."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield from damaged_product(node)
    elif isinstance(node, ast.Call):
        yield from damaged_call(node)
    elif isinstance(node, ast.Attribute) and node.attr == "mT":
        yield f"{ast.unparse(node)} not transposed", lambda n: n.value
    elif isinstance(node, ast.Attribute) and node.attr in PROJECTIONS:
        for other in sorted(PROJECTIONS - {node.attr}):
            yield f"{other} for {node.attr}", partial(renamed_attribute, other)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        yield f"{ast.unparse(node)} turned around", turned_around
    elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) in ENDS:
        yield f"the other end of {ast.unparse(node.value)}", at_the_other_end
    elif isinstance(node, ast.Slice) and node.lower is not None:
        yield f"{ast.unparse(node)} one further", one_further
    elif isinstance(node, ast.IfExp):
        yield f"the other branch of {ast.unparse(node)}", lambda n: ast.IfExp(n.test, n.orelse, n.body)
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        yield "the results in the other order", lambda n: ast.Return(ast.Tuple(n.value.elts[::-1], ast.Load()))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for family in SAME_KIND:
            for other in sorted(names & family - {node.id}) if node.id in family else ():
                yield f"{other} for {node.id}", partial(renamed, other)


def at_the_other_end(node: ast.Subscript) -> ast.Subscript:
    return ast.Subscript(node.value, ast.Constant(ENDS[ast.unparse(node.slice)]), ast.Load())


def one_further(node: ast.Slice) -> ast.Slice:
    lower, upper = (b and ast.BinOp(b, ast.Add(), ast.Constant(1)) for b in (node.lower, node.upper))
    return ast.Slice(lower, upper, node.step)


def turned_around(node: ast.Compare) -> ast.Compare:
    return ast.Compare(node.left, [OPPOSITE[type(node.ops[0])](), *node.ops[1:]], node.comparators)


def damaged_product(node: ast.BinOp) -> Iterator[tuple[str, Edit]]:
    shown = ast.unparse(node)
    yield f"{shown} in the other order", lambda n: ast.BinOp(n.right, ast.MatMult(), n.left)
    yield f"only the left factor of {shown}", lambda n: n.left
    yield f"only the right factor of {shown}", lambda n: n.right
    yield f"twice {shown}", lambda n: ast.BinOp(ast.Constant(2), ast.Mult(), n)


def damaged_call(node: ast.Call) -> Iterator[tuple[str, Edit]]:
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name == "reversed":
        yield f"{ast.unparse(node)} not reversed", lambda n: n.args[0]
    if node.args and getattr(node.args[-1], "id", "") == "memory":
        yield f"{name} without the memory", lambda n: ast.Call(n.func, n.args[:-1], n.keywords)
    if name == "carried":
        yield f"{ast.unparse(node)} without the basis", lambda n: n.args[0]
    if name in INVERSES:
        yield (
            f"{ast.unparse(node.args[0])} without its inverse",
            lambda n: ast.Call(ast.Name("as_it_is", ast.Load()), n.args, []),
        )
    if name == "replace":
        named = [k for k in node.keywords if k.arg]
        for i, keyword in enumerate(named):
            yield f"{keyword.arg} left as it was", partial(without, i)
        for i, j in itertools.combinations(range(len(named)), 2):
            yield f"{named[i].arg} and {named[j].arg} swapped", partial(swapped, i, j)


def renamed_attribute(name: str, node: ast.Attribute) -> ast.Attribute:
    return ast.Attribute(node.value, name, ast.Load())


def renamed(name: str, _: ast.Name) -> ast.Name:
    return ast.Name(name, ast.Load())


def without(i: int, node: ast.Call) -> ast.Call:
    """The call with its i-th keyword left out."""
    return ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])


def swapped(i: int, j: int, node: ast.Call) -> ast.Call:
    """The call with the values of two keywords exchanged."""
    keywords = list(node.keywords)
    keywords[i] = ast.keyword(node.keywords[i].arg, node.keywords[j].value)
    keywords[j] = ast.keyword(node.keywords[j].arg, node.keywords[i].value)
    return ast.Call(node.func, node.args, keywords)
