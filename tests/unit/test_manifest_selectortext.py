"""Label selectors as text: what kubectl's syntax is read as, and what is refused."""

import pytest

from everynode.manifest.selectortext import parse_requirements


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("a", (("a", "Exists", ()),)),
        ("! a", (("a", "DoesNotExist", ()),)),
        ("a=b", (("a", "In", ("b",)),)),
        ("a == b", (("a", "In", ("b",)),)),
        ("a=", (("a", "In", ("",)),)),
        ("a!=b", (("a", "NotIn", ("b",)),)),
        ("a in (c, b,c)", (("a", "In", ("b", "c")),)),
        ("a notin(b)", (("a", "NotIn", ("b",)),)),
        ("a in ()", (("a", "In", ("",)),)),
        ("in", (("in", "Exists", ()),)),
        (
            "x.io/a in (b,c) , d,e=f",
            (("x.io/a", "In", ("b", "c")), ("d", "Exists", ()), ("e", "In", ("f",))),
        ),
    ],
)
def test_a_selectors_text_is_read(
    text: str, expected: tuple[tuple[str, str, tuple[str, ...]], ...]
) -> None:
    """The text of a selector is its requirements, in their order, values sorted."""
    found = parse_requirements(text)

    assert expected == tuple((each.key, each.operator, each.values) for each in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",", '"" is no requirement on a label; write key=value'),
        ("a,", '"" is no requirement on a label; write key=value'),
        ("a b", '"a b" is no requirement'),
        ("in (a)", '"in (a)" is no requirement'),
        ("a on (b)", '"a on (b)" is no requirement'),
        ("a in (b", '"a in (b" has a bracket too many or too few; write key=value'),
        ("a in b)", "has a bracket too many or too few"),
        ("a in (b)(c)", "has a bracket too many or too few"),
        ("a in (b (c))", "has a bracket too many or too few"),
        ("a/b/c", '"a/b/c" is not a key'),
        ("a in (b, c d)", '"c d" is not a label value'),
        ("x" * 200, "..."),
    ],
)
def test_a_text_that_is_no_selector_is_refused(text: str, message: str) -> None:
    """What is no requirement is shown, cut if it is long, with what can be written."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is examined below
        parse_requirements(text)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("piece", ["(", ")", ",", "a,", "()", "a in (b),", " ", "!", "a ", "a("])
def test_a_very_long_selector_takes_little_time(piece: str) -> None:
    """However a text is made, reading it takes time in proportion to its length (B1)."""
    text = piece * (200_000 // len(piece))

    if piece == " ":
        assert parse_requirements(text) == ()
    else:
        with pytest.raises(ValueError, match=r"write|key"):
            parse_requirements(text)
