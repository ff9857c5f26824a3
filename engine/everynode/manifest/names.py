"""What names, label keys and label values may look like (apimachinery, pkg/util/validation).

Used by the rules of this package. Each function returns what is wrong and what to do, or ``None`` if nothing is.
"""

from __future__ import annotations

import json
import re

SUBDOMAIN_LENGTH_MAX = 253
LABEL_LENGTH_MAX = 63
SHOWN_LENGTH_MAX = 80

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def quoted(text: str) -> str:
    """Show a text in a message: in quotes, in plain ASCII, cut if it is long."""
    cut = text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}..."
    return json.dumps(cut)


def printable(text: str) -> str:
    """Show a text in a message without quotes: cut if it is long, and unable to garble a terminal."""
    cut = text if len(text) <= SUBDOMAIN_LENGTH_MAX else f"{text[:SUBDOMAIN_LENGTH_MAX]}..."
    return cut if cut.isprintable() else json.dumps(cut)[1:-1]


def subdomain_problem(text: str) -> str | None:
    """Check a DNS-1123 subdomain, which the names of most objects are."""
    if len(text) <= SUBDOMAIN_LENGTH_MAX and _SUBDOMAIN.fullmatch(text):
        return None
    return (
        f"{quoted(text)} is not a name: use lower-case letters, digits, '-' and '.', begin and end each part with "
        f"a letter or digit, at most {SUBDOMAIN_LENGTH_MAX} characters"
    )


def label_problem(text: str) -> str | None:
    """Check a DNS-1123 label, which the names of namespaces and containers are."""
    if len(text) <= LABEL_LENGTH_MAX and _LABEL.fullmatch(text):
        return None
    return (
        f"{quoted(text)} is not a name: use lower-case letters, digits and '-', begin and end with a letter or "
        f"digit, at most {LABEL_LENGTH_MAX} characters"
    )


def qualified_name_problem(text: str) -> str | None:
    """Check the key of a label, an annotation or a taint: ``name`` or ``domain/name``."""
    prefix, slash, name = text.rpartition("/")
    prefix_right = not slash or (
        len(prefix) <= SUBDOMAIN_LENGTH_MAX and _SUBDOMAIN.fullmatch(prefix)
    )
    if prefix_right and len(name) <= LABEL_LENGTH_MAX and _QUALIFIED.fullmatch(name):
        return None
    return (
        f"{quoted(text)} is not a key: use letters, digits, '-', '_' and '.', begin and end with a letter or "
        f"digit, at most {LABEL_LENGTH_MAX} characters, with a domain and '/' before it if you like"
    )


def label_value_problem(text: str) -> str | None:
    """Check the value of a label; it may be empty."""
    if not text or (len(text) <= LABEL_LENGTH_MAX and _QUALIFIED.fullmatch(text)):
        return None
    return (
        f"{quoted(text)} is not a label value: use letters, digits, '-', '_' and '.', begin and end with a letter "
        f"or digit, at most {LABEL_LENGTH_MAX} characters"
    )
