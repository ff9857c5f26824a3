"""Label selectors as people type them for kubectl: ``tier=web,zone!=a,env in (prod, test),!legacy``.

Used by ``strategy`` (in an annotation there is only text) and by the CLI's ``get -l``. It knows the grammar, not what
is selected. Source: apimachinery, pkg/labels/selector.go; without ``<`` and ``>``, which a LabelSelector cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from everynode.core.values import Requirement
from everynode.manifest.names import label_value_problem, qualified_name_problem, quoted

_ADVICE = (
    "write key=value, key!=value, key, !key, key in (a, b) or key notin (a, b), separated by commas"
)

# Up to the next comma that stands outside of brackets. It can match in one way only, so that cutting takes time in
# proportion to the text, whatever is in it.
_PART = re.compile(r"[^,()]*(?:\([^()]*\)[^,()]*)?")
_KEY = r"[A-Za-z0-9][^\s,()=!<>]*"
_VALUE = r"[^\s,()=!<>]*"
_ONE_OF = re.compile(rf"(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})")
_EXISTENCE = re.compile(rf"(?P<not>!?)\s*(?P<key>{_KEY})")


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Read a selector; the empty one has no requirements and selects everything.

    Raises:
        ValueError: A part of it is no requirement on a label; the message says which and what to write.
    """
    if not text.strip():
        return ()
    return tuple(_parse_one(part.strip()) for part in _parts(text))


def _parts(text: str) -> Iterator[str]:
    """Cut a selector at the commas between its requirements."""
    begin = 0
    while begin <= len(text):
        end = _end_of_part(text, begin)
        yield text[begin:end]
        begin = end + 1


def _end_of_part(text: str, begin: int) -> int:
    found = _PART.match(text, begin)
    end = begin if found is None else found.end()
    if text[end : end + 1] not in {"", ","}:
        raise ValueError(f"{quoted(text)} has a bracket too many or too few; {_ADVICE}")
    return end


def _parse_one(text: str) -> Requirement:
    if found := _ONE_OF.fullmatch(text):
        values = tuple(sorted({value.strip() for value in found["values"].split(",")}))
        return _checked(found["key"], "In" if found["operator"] == "in" else "NotIn", values)
    if found := _EQUALITY.fullmatch(text):
        operator = "NotIn" if found["operator"] == "!=" else "In"
        return _checked(found["key"], operator, (found["value"],))
    if found := _EXISTENCE.fullmatch(text):
        return _checked(found["key"], "DoesNotExist" if found["not"] else "Exists", ())
    raise ValueError(f"{quoted(text)} is no requirement on a label; {_ADVICE}")


def _checked(key: str, operator: str, values: tuple[str, ...]) -> Requirement:
    for problem in (qualified_name_problem(key), *map(label_value_problem, values)):
        if problem is not None:
            raise ValueError(problem)
    return Requirement(key=key, operator=operator, values=values)
