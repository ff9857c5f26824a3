"""What names, keys and label values may look like, and how long they may be."""

import pytest

from everynode.manifest.names import (
    label_problem,
    label_value_problem,
    qualified_name_problem,
    quoted,
    subdomain_problem,
)


@pytest.mark.parametrize("text", ["a", "a.b", "a-1.b-2", "0", "a" * 253, "a.a-a.0"])
def test_subdomains_are_names(text: str) -> None:
    """A DNS-1123 subdomain of up to 253 characters is a name."""
    assert subdomain_problem(text) is None


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "-a", "a-", "a-.b", "a.-b", "A", "a_b", "a b", "ä", "a" * 254],
)
def test_other_texts_are_no_subdomains(text: str) -> None:
    """Anything else is refused, with the text itself in the message."""
    assert quoted(text) in (subdomain_problem(text) or "")


@pytest.mark.parametrize("text", ["a", "a-1", "0", "a" * 63])
def test_labels_are_names(text: str) -> None:
    """A DNS-1123 label of up to 63 characters is a name."""
    assert label_problem(text) is None


@pytest.mark.parametrize("text", ["", "a.b", "-a", "a-", "A", "a_b", "a\n", "a" * 64])
def test_other_texts_are_no_labels(text: str) -> None:
    """Anything else is refused, with the text itself in the message."""
    assert quoted(text) in (label_problem(text) or "")


@pytest.mark.parametrize(
    "text", ["a", "A", "a.b_c-D", "a.b/c", "0/0", "a" * 63, "d" * 253 + "/" + "n" * 63]
)
def test_qualified_names_are_keys(text: str) -> None:
    """A name of up to 63 characters, with or without a domain of up to 253 before it, is a key."""
    assert qualified_name_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "A/b",
        "a b",
        "-a",
        "a-",
        ".a",
        "a_",
        "ä",
        "a" * 64,
        "d" * 254 + "/n",
    ],
)
def test_other_texts_are_no_keys(text: str) -> None:
    """Anything else is refused, with the text itself in the message."""
    assert quoted(text) in (qualified_name_problem(text) or "")


@pytest.mark.parametrize("text", ["", "a", "A.b_c-D", "1", "a" * 63])
def test_label_values_are_values(text: str) -> None:
    """Up to 63 characters, or none, are a label's value."""
    assert label_value_problem(text) is None


@pytest.mark.parametrize("text", ["a b", "a/b", "-a", "a.", "_", "ä", "a\n", "a" * 64])
def test_other_texts_are_no_label_values(text: str) -> None:
    """Anything else is refused, with the text itself in the message."""
    assert quoted(text) in (label_value_problem(text) or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", '"a"'),
        ("", '""'),
        ("a\x1b[1m\n", '"a\\u001b[1m\\n"'),
        ("ä", '"\\u00e4"'),
        ("a" * 80, '"' + "a" * 80 + '"'),
        ("a" * 81, '"' + "a" * 80 + '..."'),
    ],
)
def test_texts_are_shown_in_quotes(text: str, expected: str) -> None:
    """A text in a message cannot garble a terminal, and is cut if it is long."""
    assert quoted(text) == expected
