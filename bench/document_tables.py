"""Documents whose tables a program writes: each between its marks, which name the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- {name}: made by `{command}` -->\n", "<!-- end of {name} -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its last line does not end."""
    lines = ["| " + " | ".join(each) + " |" for each in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def with_blocks(text: str, command: str, made: Mapping[str, str]) -> str:
    """The document with each block, by its name, between its marks. Raises ValueError naming the one that has none."""
    for name, block in made.items():
        begin, end = BEGIN.format(name=name, command=command), END.format(name=name)
        if begin not in text or end not in text:
            raise ValueError(f"the document has no marks of {name}")
        text = f"{text[: text.index(begin)]}{begin}{block.rstrip()}\n{text[text.index(end) :]}"
    return text


def write_again(document: Path, filled: Callable[[str], str]) -> None:
    """Writes the document as it is with its blocks made anew, and says so if any is another one."""
    text = document.read_text(encoding="utf-8")
    if (new := filled(text)) != text:
        document.write_text(new, encoding="utf-8")
        print(f"{document.name} has new tables")
