"""Which mutants there are of a module: its source with one small change each, as cosmic-ray plans them.

Used by ``run``. The operators and what they do to a piece of code are cosmic-ray's. Left out is what no test can, or
should, notice:

* what is no Python, and what means the same as the original or as another mutant (their syntax trees are equal);
* changes of annotations alone: with ``from __future__ import annotations`` nobody evaluates them but msgspec, and
  which types come in is examined by the tests of ``wire``; likewise whether an argument can be passed by position;
* a comparison of values made one of identity: equal texts and small numbers may or may not be one object, so that such
  a mutant says nothing (and the linter forbids it);
* ``x == "Gt"`` made ``x < "Gt"``: our codes have no order, so that it would only tell how they are spelled.

A module is mutated one statement (of the module, or of a class) at a time, because cosmic-ray parses what it mutates
anew for each mutant.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

# cosmic-ray carries no types of its own.
from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore[import-untyped]
from cosmic_ray.mutating import mutate_code  # type: ignore[import-untyped]
from cosmic_ray.plugins import get_operator, operator_names  # type: ignore[import-untyped]

_NEED_ARGUMENTS = frozenset({"core/VariableReplacer", "core/VariableInserter"})
_COMPARISON = "core/ReplaceComparisonOperator_"
_OF_IDENTITY = frozenset({"Is", "IsNot"})
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


class Mutant(NamedTuple):
    """One changed source of a module.

    Attributes:
        line: The first line of the original that is changed or gone, from 1.
        where: The innermost class or function that it is in, as ``Class.method``; empty for the module itself.
        removed: The lines of the original that are gone, without white space around them.
        added: The lines that stand there instead, likewise.
        source: The whole module.
    """

    line: int
    where: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    source: str


class _Piece(NamedTuple):
    """Lines of a module that are mutated together, and what makes a module of its own of them.

    Attributes:
        first: The number of lines before it.
        last: The number of lines up to its end.
    """

    first: int
    last: int
    prefix: str = ""
    suffix: str = ""

    def of(self, source: str) -> str:
        """Return the piece of this source, as a module of its own."""
        lines = source.splitlines(keepends=True)
        return "".join((self.prefix, *lines[self.first : self.last], self.suffix))

    def replaced(self, source: str, text: str) -> str:
        """Return this source with another text, a module of its own, in this piece's place."""
        lines = source.splitlines(keepends=True)
        text = text.removeprefix(self.prefix).removesuffix(self.suffix)
        return "".join((*lines[: self.first], text, *lines[self.last :]))


def plan(source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    found = []
    for piece in _pieces(tree):
        original = piece.of(source)
        seen = {_meaning(original)}
        for mutated in _mutations(original):
            meaning = _meaning(mutated)
            if meaning is not None and meaning not in seen:
                seen.add(meaning)
                found.append(_describe(source, piece.replaced(source, mutated), tree))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.added))


def _pieces(tree: ast.Module) -> Iterator[_Piece]:
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            yield _Piece(
                _lines_before(statement), _lines_before(statement.body[0]), "", "    pass\n"
            )
            for inner in statement.body:
                yield _Piece(_lines_before(inner), inner.end_lineno or 0, "class _:\n")
        else:
            yield _Piece(_lines_before(statement), statement.end_lineno or 0)


def _lines_before(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)]) - 1


def _mutations(piece: str) -> Iterator[str]:
    nodes = list(ast_nodes(get_ast(piece)))
    for operator in _operators():
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(count):
            with contextlib.suppress(AttributeError):  # its ExceptionReplacer at ``except a.b``
                yield mutate_code(piece, operator, occurrence)


@functools.cache
def _operators() -> list[Any]:
    return [get_operator(name)() for name in sorted(operator_names()) if _is_used(name)]


def _is_used(name: str) -> bool:
    if not name.startswith(_COMPARISON):
        return name not in _NEED_ARGUMENTS
    both = set(name.removeprefix(_COMPARISON).split("_"))
    return both <= _OF_IDENTITY or not both & _OF_IDENTITY


def _meaning(source: str) -> str | None:
    """Write a syntax tree without what no test can notice; ``None`` if it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "mutant", "exec")
        except SyntaxError:
            return None
        return ast.dump(_Meaning().visit(ast.parse(source)))


class _Meaning(ast.NodeTransformer):
    """Gives syntax trees that mean the same one form, and those that differ meaninglessly too."""

    def visit(self, node: ast.AST) -> ast.AST:
        """Replace a node (declared here because ast says nothing of the result)."""
        replaced: ast.AST = super().visit(node)
        return replaced

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Take the annotation away."""
        return ast.arg(arg=node.arg)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Forget which arguments may be passed by position, and which by name."""
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *(each for each in node.kw_defaults if each is not None)]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Take the annotation of the result away."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Take the annotation away."""
        node.annotation = ast.Name("annotation", ast.Load())
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Write ``not x is None`` as ``x is not None``, and ``not not x`` as ``x``."""
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            opposite = _OPPOSITE.get(type(inner.ops[0]))
            if opposite is not None:
                return self.visit(ast.Compare(inner.left, [opposite()], inner.comparators))
        if (
            isinstance(node.op, ast.Not)
            and isinstance(inner, ast.UnaryOp)
            and isinstance(inner.op, ast.Not)
        ):
            return self.visit(inner.operand)
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Write every comparison by order with a text as the same one."""
        for position, (compared, to) in enumerate(zip(node.ops, node.comparators, strict=True)):
            by_order = isinstance(compared, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            if by_order and isinstance(to, ast.Constant) and isinstance(to.value, str):
                node.ops[position] = ast.Eq()
        return self.generic_visit(node)


def _describe(source: str, mutated: str, tree: ast.Module) -> Mutant:
    before, after = source.splitlines(), mutated.splitlines()
    same = next(line for line, text in enumerate(before) if after[line : line + 1] != [text])
    matcher = difflib.SequenceMatcher(None, before[same:], after[same:], autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    removed = [line for _, begin, end, _, _ in changes for line in before[same:][begin:end]]
    added = [line for _, _, _, begin, end in changes for line in after[same:][begin:end]]
    return Mutant(
        line=same + 1,
        where=_where(tree, same + 1),
        removed=tuple(line.strip() for line in removed),
        added=tuple(line.strip() for line in added),
        source=mutated,
    )


def _where(tree: ast.AST, line: int) -> str:
    """Name the innermost class or function around a line, its decorators included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and _lines_before(node) < line <= (
            node.end_lineno or 0
        ):
            inner = _where(node, line)
            return f"{node.name}.{inner}" if inner else node.name
    return ""
