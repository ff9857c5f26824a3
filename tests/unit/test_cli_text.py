"""What the command line makes of text that people type, and the text that it makes for them."""

import pytest
import typer

from everynode.cli.quantities import parse_bytes, parse_seconds, show_bytes, show_seconds
from everynode.cli.resources import DAEMONSETS, NODES, PODS, Named, parse_named, resource_of
from everynode.cli.selectors import parse_selector, selects
from everynode.cli.simulate import split_labels, split_taints
from everynode.cli.tables import Cell, Columns, age, pairs

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0s"),
        (-5 * SECOND, "0s"),
        (999, "0s"),
        (59 * SECOND, "59s"),
        (MINUTE, "1m"),
        (3 * MINUTE + 20 * SECOND, "3m20s"),
        (12 * MINUTE + 5 * SECOND, "12m"),
        (5 * HOUR + 10 * MINUTE, "5h10m"),
        (9 * HOUR + 10 * MINUTE, "9h"),
        (DAY, "1d"),
        (2 * DAY + 4 * HOUR, "2d4h"),
        (30 * DAY + 4 * HOUR, "30d"),
    ],
)
def test_age(duration_ms: int, text: str) -> None:
    """An age has two units while it is young and one when it is old."""
    assert text == age(NOW - duration_ms, NOW)


def test_age_of_what_has_no_birthday() -> None:
    """What nobody knows the age of is said to be unknown."""
    assert age(0, NOW) == "<unknown>"


def test_columns_line_up() -> None:
    """Each column is as wide as its widest text, nothing is cut, and no line ends in blanks."""
    columns = Columns(["NAME", "READY"], [["a-very-long-name", "1"], ["b", Cell("10", "green")]])
    assert columns.lines() == [
        "NAME               READY",
        "a-very-long-name   1",
        "b                  10",
    ]


def test_columns_in_colour_say_the_same() -> None:
    """Colour changes nothing about the text."""
    columns = Columns(["NAME", "READY"], [["a", Cell("10", "green")], ["bb", "1"]])
    assert columns.styled().plain.splitlines() == columns.lines()


def test_a_later_row_follows_the_columns() -> None:
    """A row that comes later stands below the others, and one that is wider is not cut."""
    columns = Columns(["NAME", "READY"], [["aaaa", "1"]])
    assert columns.line(["b", "2"]) == "b      2"
    assert columns.line(["much-longer", "2"]) == "much-longer   2"


def test_pairs() -> None:
    """Labels are sorted; none is said so."""
    assert pairs({"b": "2", "a": "1"}) == "a=1,b=2"
    assert pairs({}) == "<none>"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ds"], Named(DAEMONSETS, ())),
        (["daemonsets.apps", "a", "b"], Named(DAEMONSETS, ("a", "b"))),
        (["Node", "a.example.com"], Named(NODES, ("a.example.com",))),
        (["po/a", "pods/b"], Named(PODS, ("a", "b"))),
    ],
)
def test_objects_are_named_as_for_kubectl(words: list[str], named: Named) -> None:
    """TYPE, TYPE NAME... and TYPE/NAME... are understood, in singular, plural and short."""
    assert parse_named(words) == named


@pytest.mark.parametrize(
    "words", [["deployments"], ["ds", "po/a"], ["ds/a", "po/b"], ["ds/"], ["/a"]]
)
def test_objects_that_cannot_be_named(words: list[str]) -> None:
    """An unknown type, a mixture of forms or types, or half a name is wrong usage."""
    with pytest.raises(typer.BadParameter):
        parse_named(words)


def test_only_some_types_are_allowed() -> None:
    """A command that is about sets says so when it is given nodes."""
    with pytest.raises(typer.BadParameter, match="daemonsets"):
        resource_of("nodes", (DAEMONSETS,))


LABELS = {"tier": "web", "zone": "a", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("tier=web", True),
        ("tier==web,zone=b", False),
        ("tier!=db", True),
        ("other!=x", True),
        ("tier", True),
        ("!tier", False),
        ("!other", True),
        ("empty=", True),
        ("zone in (a, b),tier=web", True),
        ("zone notin (a,b)", False),
        ("zone in (c)", False),
    ],
)
def test_selector(selector: str, selected: bool) -> None:
    """A selector means what it means to kubectl; a label that is not there differs from every value."""
    assert selects(parse_selector(selector), LABELS) == selected


@pytest.mark.parametrize("selector", ["a=b=c", "in (a)", "a in b", ",", "a,,b", "-a", "a in (b"])
def test_no_selector(selector: str) -> None:
    """What is no selector is wrong usage, and the message says what is one."""
    with pytest.raises(typer.BadParameter, match="key=value"):
        parse_selector(selector)


def test_labels_to_set_and_to_remove() -> None:
    """`key=value` sets, also to nothing, and `key-` removes."""
    put, remove = split_labels(["a=1", "b=", "c=x.y", "d-", "example.com/e-"])
    assert put == {"a": "1", "b": "", "c": "x.y"}
    assert remove == ["d", "example.com/e"]


def test_taints_to_set_and_to_remove() -> None:
    """`key=value:Effect` and `key:Effect` set; with `-` at the end, or `key-`, they remove."""
    put, remove = split_taints(["a=1:NoSchedule", "b:NoExecute", "c:NoExecute-", "d-"])
    assert put == [
        {"key": "a", "value": "1", "effect": "NoSchedule"},
        {"key": "b", "value": "", "effect": "NoExecute"},
    ]
    assert remove == [{"key": "c", "effect": "NoExecute"}, {"key": "d", "effect": ""}]


@pytest.mark.parametrize("text", ["a", "=1", "-", "", "a b=1", "a/b/c=1", "a=b c", "a=x=y", "_x-"])
def test_no_label(text: str) -> None:
    """What neither sets nor removes a label, or names one that cannot be, is wrong usage."""
    with pytest.raises(typer.BadParameter):
        split_labels([text])


@pytest.mark.parametrize(
    "text",
    ["a", "a=1", "=1:NoSchedule", ":NoSchedule", "-", "", "a:Never", "a:Never-", "a b:NoExecute"],
)
def test_no_taint(text: str) -> None:
    """What neither sets nor removes a taint, or names one that cannot be, is wrong usage."""
    with pytest.raises(typer.BadParameter):
        split_taints([text])


def test_quantities() -> None:
    """Durations and sizes have a unit; what is written can be read again."""
    assert parse_seconds("7d") == 7 * 86_400
    assert parse_seconds("90s") == 90
    assert parse_bytes("10GiB") == 10 * 1024**3
    assert parse_bytes("512") == 512
    assert show_seconds(7 * 86_400) == "7d"
    assert show_seconds(90) == "90s"
    assert show_seconds(0) == "0s"
    assert show_bytes(1536) == "1.5 KiB"
    assert show_bytes(1024**3) == "1 GiB"
    assert show_bytes(0) == "0 B"


@pytest.mark.parametrize("text", ["", "7", "0d", "1.5h", "7w", "-1d", "d"])
def test_no_duration(text: str) -> None:
    """A duration without a known unit, or of nothing, is wrong usage."""
    with pytest.raises(typer.BadParameter, match="7d"):
        parse_seconds(text)
