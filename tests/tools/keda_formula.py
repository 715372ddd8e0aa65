"""``scalingModifiers.formula``: the part of expr-lang (github.com/expr-lang/expr, "Language Definition") that sums need.

Numbers, names of triggers, ``+ - * /``, parentheses, a leading minus, ``max`` and ``min`` of two and more. Everything else that
KEDA would take (conditions, ``count``, pipes, strings ...) is refused rather than computed otherwise than KEDA would.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from tools.hpa import NotSimulated

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_CALLS: dict[str, Callable[..., float]] = {"max": max, "min": min}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The formula's value. Raises ``NotSimulated`` for anything not listed above, and for a name that no trigger has."""
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise NotSimulated(f"formula {formula!r}: {error}") from None
    return _value(tree.body, values, formula)


def _value(node: ast.expr, values: Mapping[str, float], formula: str) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in values:
            return float(values[name])
        case ast.Name(id=name):
            raise NotSimulated(f"formula {formula!r}: no trigger is named {name!r}; there are {', '.join(values)}")
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, values, formula)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, values, formula), _value(right, values, formula))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS and len(args) > 1:
            return _CALLS[name](*(_value(arg, values, formula) for arg in args))
    raise NotSimulated(f"formula {formula!r}: {ast.unparse(node)!r} is not simulated")
