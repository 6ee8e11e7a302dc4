"""What every character of a Python source is part of, by Python's tokenizer and parser."""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

#: Every label and its meaning.
LABELS = {
    "comment": "a comment, from its sign on",
    "docstring": "the string that documents a module, class or function",
    "string": "any other string, f-strings and bytes included, with prefix and quotes",
    "number": "a number",
    "keyword": "a reserved word, but True, False and None",
    "constant": "True, False or None",
    "function header": "def or async def, up to its colon",
    "class header": "class, up to its colon",
    "decorator": "a decorator, with its sign and arguments",
    "import": "an import statement",
    "called name": "the name that is called: f in f(x), g in a.g(x)",
    "attribute": "a name after a dot that is not called",
    "parameter": "the name of a parameter in a function header or lambda",
    "annotation": "the type of a parameter, a variable or a returned value",
    "default value": "the default value of a parameter",
    "keyword argument": "the name of an argument in a call or class header: k in f(k=1)",
    "assignment target": "what is assigned to",
    "condition": "what an if, elif or while tests",
    "subscript": "what stands between brackets after a value",
    "comprehension": "a list, set or dict comprehension, or a generator expression",
    "return": "a return statement",
    "raise": "a raise statement",
    "loop body": "inside the body of a for or while",
    "try body": "inside the body of a try",
    "except block": "inside the body of an except",
    "exception type": "what an except catches",
    "with body": "inside the body of a with",
}

#: What a label of each character of a source looks like: (n_characters,).
Mask = NDArray[np.bool_]

_LONE_CARRIAGE_RETURN = re.compile("\r(?!\n)")
_STRING_STARTS = {"FSTRING_START", "TSTRING_START"}
_STRING_ENDS = {"FSTRING_END", "TSTRING_END"}
_CONSTANTS = {"True", "False", "None"}
_OPENING, _CLOSING = set("([{"), set(")]}")
_NOT_IN_LOGICAL_LINES = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
_BLOCKS = {"loop body", "try body", "except block", "with body"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

# What older Pythons do not have: except* and t-strings.
_TRIES = tuple(getattr(ast, name) for name in ("Try", "TryStar") if hasattr(ast, name))
_FORMATTED = tuple(
    getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name)
)

# A span: first character, and the one after the last.
_Span = tuple[int, int]


def character_labels(source: str) -> dict[str, Mask] | None:
    """Label every character of a Python source.

    Labels overlap: a call in a loop in a try has all three. What stands inside an f-string is part
    of a string and nothing else: only from Python 3.12 on does the parser tell where its parts are.
    A comment has the label ``comment`` and those of the block that it is in, and no other.

    Args:
        source: Text of a file.

    Returns:
        Label to mask (len(source),), one for each of :data:`LABELS`; None where the text is not
        Python that this version parses.
    """
    # Python ends a line at a lone carriage return, tokenize does not: their lines would differ.
    if _LONE_CARRIAGE_RETURN.search(source):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the source
            tree = ast.parse(source)
            tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    positions = _Positions(source)
    masks = {label: np.zeros(len(source), dtype=np.bool_) for label in LABELS}
    for spans in (_lexical_spans(tokens, positions), _syntactic_spans(tree, positions)):
        for label, (start, end) in spans:
            masks[label][start:end] = True
    masks["string"] &= ~masks["docstring"]
    for label in LABELS.keys() - _BLOCKS - {"comment"}:
        masks[label] &= ~masks["comment"]
    return masks


class _Positions:
    """Lines and columns to numbers of characters."""

    def __init__(self, source: str) -> None:
        self.source = source
        # Not splitlines, which also ends lines at form feeds and the like.
        self.lines = source.split("\n")
        self.starts = [0, *accumulate(len(line) + 1 for line in self.lines)]

    def of_token(self, position: tuple[int, int]) -> int:
        """Of tokenize's (line, column): columns are characters."""
        line, column = position
        return min(self.starts[line - 1] + column, len(self.source))

    def of_node(self, line: int, column: int) -> int:
        """Of ast's line and column: columns are bytes of UTF-8."""
        text = self.lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode())
        return self.starts[line - 1] + column

    def span(self, first: ast.AST, last: ast.AST | None = None) -> _Span:
        """From the start of a node to its end, or to that of another."""
        begin, end = _located(first), _located(last or first)
        return (
            self.of_node(begin.lineno, begin.col_offset),
            self.of_node(end.end_lineno or end.lineno, end.end_col_offset or 0),
        )

    def block(self, statements: list[ast.stmt]) -> _Span:
        """From the first statement, its decorators included, to the end of the last."""
        start, end = self.span(statements[0], statements[-1])
        decorators = getattr(statements[0], "decorator_list", [])
        return (self.starts[decorators[0].lineno - 1] if decorators else start), end


def _located(node: ast.AST) -> ast.expr:
    """A node that has a position; the types do not say which do."""
    assert hasattr(node, "lineno")
    return node  # type: ignore[return-value]


def _lexical_spans(tokens: list[tokenize.TokenInfo], at: _Positions) -> Iterator[tuple[str, _Span]]:
    """What the tokenizer knows."""
    depth, string_start = 0, 0
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        start, end = at.of_token(token.start), at.of_token(token.end)
        if kind in _STRING_STARTS:
            string_start = string_start if depth else start
            depth += 1
        elif kind in _STRING_ENDS:
            depth -= 1
            if not depth:
                yield "string", (string_start, end)
        elif depth:
            continue
        elif token.type == tokenize.NAME and keyword.iskeyword(token.string):
            yield "constant" if token.string in _CONSTANTS else "keyword", (start, end)
        elif kind in ("COMMENT", "STRING", "NUMBER"):
            yield kind.lower(), (start, end)
    for line in _logical_lines(tokens):
        words = [token.string for token in line[:2]]
        if words[0] == "@":
            yield "decorator", (at.of_token(line[0].start), at.of_token(line[-1].end))
        elif "def" in (words[0], words[-1] if words[0] == "async" else None):
            yield "function header", (at.of_token(line[0].start), at.of_token(_colon(line).end))
        elif words[0] == "class":
            yield "class header", (at.of_token(line[0].start), at.of_token(_colon(line).end))


def _logical_lines(tokens: list[tokenize.TokenInfo]) -> Iterator[list[tokenize.TokenInfo]]:
    """Tokens of one logical line at a time, without comments and line ends."""
    line: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if line:
                yield line
            line = []
        elif token.type not in _NOT_IN_LOGICAL_LINES:
            line.append(token)


def _colon(line: list[tokenize.TokenInfo]) -> tokenize.TokenInfo:
    """The colon that ends a header: the first outside of brackets."""
    depth = 0
    for token in line:
        if token.type == tokenize.OP:
            depth += (token.string in _OPENING) - (token.string in _CLOSING)
            if token.string == ":" and not depth:
                return token
    return line[-1]


def _syntactic_spans(tree: ast.AST, at: _Positions) -> Iterator[tuple[str, _Span]]:
    """What the parser knows."""
    for node, called in _walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)):
            yield from (("docstring", at.span(n)) for n in _docstring(node))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield "import", at.span(node)
        elif isinstance(node, ast.Return):
            yield "return", at.span(node)
        elif isinstance(node, ast.Raise):
            yield "raise", at.span(node)
        elif isinstance(node, (ast.If, ast.While)):
            yield "condition", at.span(node.test)
        elif isinstance(node, _COMPREHENSIONS):
            yield "comprehension", at.span(node)
        elif isinstance(node, ast.Subscript):
            yield "subscript", at.span(node.slice)
        elif isinstance(node, ast.Name) and called:
            yield "called name", at.span(node)
        elif isinstance(node, ast.Attribute):
            end = at.span(node)[1]
            yield "called name" if called else "attribute", (end - len(node.attr), end)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            start = at.span(node)[0]
            yield "keyword argument", (start, start + len(node.arg))
        elif isinstance(node, ast.arg):
            start = at.span(node)[0]
            yield "parameter", (start, start + len(node.arg))
        elif isinstance(node, ast.arguments):
            defaults = (d for d in (*node.defaults, *node.kw_defaults) if d is not None)
            yield from (("default value", at.span(d)) for d in defaults)
        for target in _targets(node):
            yield "assignment target", at.span(target)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                yield "annotation", at.span(annotation)
        yield from ((label, at.block(statements)) for label, statements in _bodies(node))
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            yield "exception type", at.span(node.type)


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Every node outside of f-strings, and whether it is what a call calls."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, called = waiting.pop()
        if isinstance(node, _FORMATTED):
            continue
        yield node, called
        function = node.func if isinstance(node, ast.Call) else None
        waiting += [(child, child is function) for child in ast.iter_child_nodes(node)]


def _docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[ast.AST]:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield first.value


def _targets(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
        return [node.target]
    return []


def _bodies(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
        yield "loop body", node.body
    elif isinstance(node, _TRIES):
        yield "try body", node.body
    elif isinstance(node, ast.ExceptHandler):
        yield "except block", node.body
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        yield "with body", node.body
