"""Jinja as chat templates know it from transformers, in a sandbox, with marks on what the template itself writes.

Every string that stands in the template's source is `own_text` when it runs; marked_text.py says how marks travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import update_wrapper
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, do_title, sync_do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_eval_context

from services.router.requests.marked_json import tojson
from services.router.requests.marked_text import MarkedText, concat, is_own, marked, own_text, with_marks_of

MOST_PRODUCT = 1 << 20  # bits of a number, characters or items of a sequence, that a template makes by * and **


class MarkingCodeGenerator(CodeGenerator):
    """Compiles string constants to `own_text`, and `~` to a concatenation that keeps marks."""

    environment: MarkingEnvironment

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        value = node.as_const(frame.eval_ctx)
        if _has_string(value):
            self.write(self.environment.literal(value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_TemplateData(node, frame)
        else:
            self.write(self.environment.literal(node.data))

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self.environment.literal("".join(map(str, group)))

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
            return
        self.write("environment.concat(str(environment.finalize(part)) for part in (")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")


class GenerationBlocks(Extension):
    """{% generation %} … {% endgeneration %}: what it encloses, in a scope of its own. Training masks use its place."""

    tags = {"generation"}  # noqa: RUF012  jinja2's declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class MarkingEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one chat template. `literals` are the strings of its source, alone or in lists and dicts."""

    code_generator_class = MarkingCodeGenerator
    concat = staticmethod(concat)
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        extensions = [GenerationBlocks, loopcontrols]
        # Not optimized: that computes constants such as 9 ** 99999999 before anything could limit it.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_printable, optimized=False
        )
        self.literals: list[Any] = []
        self.filters |= {"tojson": tojson, "join": _join, "indent": _indent, "title": _title}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        # A prompt that differs from one rendering to the next would give other answers to the same request.
        del self.filters["random"], self.globals["lipsum"]

    def literal(self, value: Any) -> str:
        """Keeps a constant of the template; returns the code that stands for it."""
        self.literals.append(_own(value))
        return f"environment.literals[{len(self.literals) - 1}]"

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes a product or a power. Raises TemplateError for one that could take all time or memory."""
        if _product_size(operator, left, right) > MOST_PRODUCT:
            raise TemplateError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Returns the sandbox's own str.format or str.format_map, one that keeps marks; None for anything else."""
        text = getattr(value, "__self__", None)
        if not isinstance(text, MarkedText) or not isinstance(value, (MethodType, BuiltinMethodType)):
            return super().wrap_str_format(value)
        if value.__name__ not in ("format", "format_map"):
            return None

        def formatted(*args: Any, **kwargs: Any) -> MarkedText:
            if value.__name__ == "format_map":
                args, kwargs = (), *args  # its only argument is the mapping
            return _Formatter(self, text).marked(args, kwargs)

        return update_wrapper(formatted, value)


class _Formatter(SandboxedFormatter):
    """Formats one text and collects the parts of the result. Raises what str.format raises."""

    def __init__(self, environment: MarkingEnvironment, text: MarkedText) -> None:
        super().__init__(environment)
        self._text = text
        self._parts: list[str] = []

    def marked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> MarkedText:
        whole = self.vformat(str.__str__(self._text), args, kwargs)
        joined = concat(self._parts)
        # A field within a field's format leaves other parts than those of the result: then the marks are given up.
        return joined if str.__eq__(joined, whole) else MarkedText(whole)

    def parse(self, format_string: str) -> Iterator[Any]:
        for part in super().parse(format_string):
            self._parts.append(own_text(part[0]) if is_own(self._text) else part[0])
            yield part

    def format_field(self, value: Any, format_spec: str) -> str:
        text = cast("str", super().format_field(value, format_spec))
        self._parts.append(value if isinstance(value, str) and not format_spec else text)
        return text


def _product_size(operator: str, left: Any, right: Any) -> int:
    """About how many bits, characters or items a product or a power has; 0 for what is never large."""
    if operator == "**":
        whole = isinstance(left, int) and isinstance(right, int)
        return left.bit_length() * max(0, right) if whole else 0
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
            return len(value) * max(0, times)
    return left.bit_length() + right.bit_length() if isinstance(left, int) and isinstance(right, int) else 0


def _printable(value: Any) -> Any:
    """Returns what a template prints. Raises TemplateError for an object whose text has its address in memory."""
    if isinstance(value, Iterator) or (callable(value) and not isinstance(value, (Undefined, Macro))):
        raise TemplateError(f"it prints a {type(value).__name__}, whose text is another one each time")
    return value


def _has_string(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_string, (*value, *value.values())))
    return any(map(_has_string, value)) if isinstance(value, (list, tuple)) else type(value) is str


def _own(value: Any) -> Any:
    """Returns a constant with its strings marked. Markup stays what it is: it escapes what is added to it."""
    if isinstance(value, dict):
        return {_own(key): _own(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_own, value))
    return own_text(value) if type(value) is str else value


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    return sync_do_join(context, value, d if context.autoescape else marked(str(d)), attribute)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(s, MarkedText):
        return do_indent(s, width, first, blank)
    before = width if isinstance(width, str) else " " * width
    # A line break is added first, as jinja2 does: splitlines() leaves out an empty last line.
    lines = (s + "\n").splitlines()
    rest = [before + line if line or blank else line for line in lines[1:]]
    return marked("\n").join([before + lines[0] if first else lines[0], *rest])


def _title(s: str) -> str:
    return with_marks_of(str(s), do_title(s))


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _Dict:
    """What templates may do with `dict`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """A namespace without private attributes, as transformers has it. Raises SecurityError."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be an attribute's name
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace has no private attribute {name}")
