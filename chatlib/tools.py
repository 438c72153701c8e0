"""The calculator the assistant may call: arithmetic, and counting letters in a quoted text.

It reads an expression as a syntax tree and walks it. There are no names, no calls and no
attributes in what it accepts, so there is nothing to escape through; and because length, depth
and the size of every number are bounded, there is nothing to wait for.
"""

import ast
import math
import operator
import re

MAX_CHARS = 200  # of arithmetic
MAX_TEXT = 10_000  # of text to count in
MAX_DEPTH = 20  # parentheses
MAX_BITS = 256  # of an integer: about 77 digits

BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}

ARITHMETIC = re.compile(r"[0-9.+\-*/%() ]+")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
QUOTED = r"""("[^"\n\\]*"|'[^'\n\\]*')"""
COUNT = re.compile(rf"{QUOTED}\.count\({QUOTED}\)")


def calculate(expression: str) -> str | None:
    """The value of an expression as text, or None if it is not one the calculator takes.

    Takes numbers, + - * / // % **, parentheses and thousands commas ("1,200 * 3"), and
    `"text".count("letter")`. Never raises, and answers within milliseconds.
    """
    expression = expression.strip()
    if len(expression) <= MAX_TEXT and (call := COUNT.fullmatch(expression)):
        text, letter = call[1][1:-1], call[2][1:-1]
        return str(text.count(letter)) if letter else None
    if len(expression) > MAX_CHARS:
        return None
    expression = THOUSANDS.sub("", expression)
    if not ARITHMETIC.fullmatch(expression) or _depth(expression) > MAX_DEPTH:
        return None
    try:
        return _format(_value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _depth(expression: str) -> int:
    """How deep parentheses nest; the parser's time can double with every level."""
    depth = deepest = 0
    for character in expression:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.AST) -> int | float:
    """The number a syntax tree stands for; ValueError if it has anything but arithmetic in it."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        return _bounded(BINARY[type(node.op)](left, right))
    raise ValueError("not arithmetic")


def _check_power(base: int | float, exponent: int | float) -> None:
    """Refuse a power before it is computed, while refusing is still cheap."""
    if isinstance(base, int) and base.bit_length() * abs(exponent) > 2 * MAX_BITS:
        raise ValueError("too large a power")


def _bounded(number: int | float) -> int | float:
    if isinstance(number, int) and number.bit_length() <= MAX_BITS:
        return number
    if isinstance(number, float) and math.isfinite(number):
        return number
    raise ValueError("too large, or not a real number")


def _format(number: int | float) -> str:
    """Integers in full, and floats that are integers too; other floats to 10 digits."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 1e15:
        number = int(number)
    return str(number) if isinstance(number, int) else f"{number:.10g}"
