"""Bytes to documents: cutting files, YAML and JSON text, and the limits of what one document may cost."""

import json
import time

import pytest

from everynode.errors import Problem
from everynode.manifest.documents import (
    DOCUMENT_BYTES_MAX,
    LIST_BYTES_MAX,
    Document,
    read_documents,
)
from everynode.manifest.yamltext import child_path


def read(text: str | bytes) -> list[Document]:
    """Read the documents of a file."""
    return list(read_documents(text.encode() if isinstance(text, str) else text))


def values(text: str | bytes) -> list[object]:
    """Read what the documents of a file say, and expect nothing to be wrong with them."""
    documents = read(text)
    assert [()] * len(documents) == [document.problems for document in documents]
    return [document.value for document in documents]


def only_problem(text: str | bytes) -> Problem:
    """Read a file with one document that has one problem."""
    (document,) = read(text)
    (problem,) = document.problems
    return problem


# --- cutting a file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\n", []),
        ("# only a comment\n", []),
        ("---\n---\n# nothing\n---\n", []),
        ("~", []),
        ("null\n---\na: 1\n", [{"a": 1}]),
        ("a: 1", [{"a": 1}]),
        ("---\na: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n--- # comment\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n--- {b: 2}\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n...\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n...\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n...\n", [{"a": 1}]),
        ("a: 1\r\n---\r\nb: 2\r\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\n---", [{"a": 1}]),
        ("a: ---\nb: x---\n", [{"a": "---", "b": "x---"}]),
        ("a: |\n  ---\n  x\n", [{"a": "---\nx\n"}]),
        ("----: 1\n", [{"----": 1}]),
        ("%YAML 1.2\n---\na: 1\n", [{"a": 1}]),
        ("# comment\n%YAML 1.1\n\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("%TAG !k! tag:yaml.org,2002:\n---\na: !k!str 1\n", [{"a": "1"}]),
        ("\ufeffa: 1\n", [{"a": 1}]),
        ("a: ä€😀\n", [{"a": "ä€😀"}]),
    ],
)
def test_a_file_is_cut_at_its_separators(text: str, expected: list[object]) -> None:
    """Each document is read by itself, and those with nothing in them are left out."""
    assert expected == values(text)


def test_documents_are_counted_without_the_empty_ones() -> None:
    """A document's number counts what has content, and its line is the one on which its content begins."""
    documents = read("# header\n---\n\na: 1\n---\n---\n# here\nb: 2\n")

    assert [(1, 4), (2, 8)] == [(document.number, document.line) for document in documents]


def test_a_syntax_error_costs_only_its_own_document() -> None:
    """A document that cannot be parsed is reported with its line, and those around it are read (L3)."""
    first, wrong, last = read("a: 1\n---\nkind: Odd\nb: [1\n---\nc: 3\n")

    assert {"a": 1} == first.value
    assert (None, 2, "Odd") == (wrong.value, wrong.number, wrong.kind)
    assert "line 5, column 1: did not find expected ',' or ']'" in wrong.problems[0].message
    assert {"c": 3} == last.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed in this context"),
        (
            "x: 1\na:\n\tb: 1\n",
            "line 3, column 1: there is a tab: YAML is indented with spaces only",
        ),
        ("a: 1\nb: \x00\n", "line 2: control characters are not allowed"),
        (b"a: 1\nb: \xff\n", "line 2: byte 0xff is not UTF-8: save it as UTF-8"),
        ("a: 1".encode("utf-16"), "line 1: byte 0xff is not UTF-8: save it as UTF-8"),
        ("%YAML 1.1\n", "line 2, column 1: did not find expected <document start>"),
        ("a: *b\n", "line 1, column 4: alias *b has no finished anchor &b before it"),
        ("a: &b [*b]\n", "line 1, column 8: alias *b has no finished anchor &b before it"),
        ("a: 1\u2028---\u2028b: 2", "line 2, column 1: a second document begins here"),
    ],
)
def test_text_that_is_not_yaml_is_reported_by_line(text: str | bytes, message: str) -> None:
    """What keeps a document from being read is named with its place in the file."""
    problem = only_problem(text)

    assert "" == problem.field
    assert problem.message.startswith(message)


# --- YAML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: '1'\nb: \"2\"\nc: ! 3\n", {"a": "1", "b": "2", "c": "3"}),
        ("a: !!str 1\nb: !!int '2'\n", {"a": "1", "b": 2}),
        ("a: !!map {b: !!seq [1]}\n", {"a": {"b": [1]}}),
        ("1: a\n1.5: b\ntrue: c\nno: d\n", {"1": "a", "1.5": "b", "true": "c", "false": "d"}),
        ("a: &x 1\nb: *x\n", {"a": 1, "b": 1}),
        ("a: &x k\n*x : 2\n", {"a": "k", "k": 2}),
        ("a: &x [1]\nb: [*x, *x]\n", {"a": [1], "b": [[1], [1]]}),
        ("a: &x {k: 1, l: 2}\nb: {k: 3, <<: *x}\n", {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}),
        ("a: {<<: [{k: 1}, {k: 2, l: 3}]}\n", {"a": {"k": 1, "l": 3}}),
        ("a: {'<<': 1}\n", {"a": {"<<": 1}}),
        ("a: {!!merge <<: {k: 1}}\n", {"a": {"k": 1}}),
    ],
)
def test_yaml_reads_as_json_would(text: str, expected: object) -> None:
    """Tags, keys that are no text, aliases and merges end up as plain JSON."""
    assert [expected] == values(text)


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("a: 1\na: 2\n", "a", 'key "a" already set: keep one of them (line 2, column 1)'),
        ("m: {x: {k.l: 1, 'k.l': 2}}", "m.x[k.l]", 'key "k.l" already set'),
        ("l:\n- {k: 1, k: 2}\n", "l[0].k", 'key "k" already set'),
        ("1: a\n'1': b\n", "1", 'key "1" already set'),
        ("a: {<<: {}, <<: {}}", "a[<<]", 'key "<<" already set'),
        ("a: {<<: 1}", "a[<<]", "only mappings can be merged"),
        ("a: {<<: [{}, x]}", "a[<<]", "only mappings can be merged"),
        ("? [x]\n: 1\n", "", "a key must be text: put it in quotes (line 1, column 3)"),
        ("a: {~: 1}\n", "a", "a key must be text"),
        ("a: .nan\n", "a", "is not a finite number"),
        ("a: [1, 9999999999999999999]\n", "a[1]", "needs more than 64 bits"),
        ("a: !!python/name:os.system x\n", "a", "has the tag !!python/name:os.system"),
        ("a: !!set {x}\n", "a", "has the tag !!set, which is not supported"),
        ("a: !Sub [x]\n", "a", "has the tag !Sub, which is not supported"),
        (f"? {'k' * 100}\n: 1\n? {'k' * 100}\n: 1\n", f"[{'k' * 64}...]", f'key "{"k" * 80}..."'),
    ],
)
def test_odd_yaml_is_named_by_field_and_the_rest_is_read(
    text: str, field: str, message: str
) -> None:
    """A problem that does not keep the document from being read is reported with field, line and column."""
    (document,) = read(text)
    (problem,) = document.problems

    assert document.value is not None
    assert field == problem.field
    assert problem.message.startswith(message)


def test_all_problems_of_a_text_are_reported_at_once() -> None:
    """One reading finds every duplicate key and bad number of a document."""
    (document,) = read("a: 1\na: 2\nb: .inf\nb: 3\n")

    assert ["a", "b", "b"] == [problem.field for problem in document.problems]


def test_the_first_value_of_a_duplicate_key_counts() -> None:
    """Where a key is there twice, what is read on with is the first value."""
    assert {"a": 1} == read("a: 1\na: 2\n")[0].value


def test_very_many_problems_end_the_reading() -> None:
    """After a hundred problems a document is not read on (B1)."""
    (document,) = read("a:\n" * 50_000)

    assert document.value is None
    assert 101 == len(document.problems)
    assert "there are more than 100 problems" in document.problems[-1].message


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("", "spec", "spec"),
        ("spec", "template", "spec.template"),
        ("metadata.labels", "a.b/c", "metadata.labels[a.b/c]"),
        ("", "", "[]"),
        ("a", "\x1b[1m", "a[\\u001b[1m]"),
        ("a", "ä", "a[ä]"),
        ("a", "x" * 64, f"a.{'x' * 64}"),
        ("a", "x" * 65, f"a[{'x' * 64}...]"),
    ],
)
def test_fields_are_named_as_kubectl_names_them(path: str, key: str, expected: str) -> None:
    """A key that is not a plain word stands in brackets, and a long one is cut."""
    assert expected == child_path(path, key)


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('\n  {"a":\t1.0}\n', [{"a": 1}]),
        ('{"a": 1}{"b": 2}\n{"c": 3}', [{"a": 1}, {"b": 2}, {"c": 3}]),
        ('{"a": 1}\n---\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        (r'{"a": "\ud83d\ude00\u003c\/"}', [{"a": "😀</"}]),
        ('{"a": "😀"}', [{"a": "😀"}]),
        ("{a: b}", [{"a": "b"}]),
        ('{"a": "2020-01-01", "b": null}', [{"a": "2020-01-01", "b": None}]),
        ('{"a": NaN}', [{"a": "NaN"}]),
    ],
)
def test_json_is_read_one_document_after_the_other(text: str, expected: list[object]) -> None:
    """JSON documents need no separator; what is not quite JSON is read as YAML."""
    assert expected == values(text)


def test_json_documents_know_their_lines() -> None:
    """Each of several JSON documents in a row has its number and its line."""
    documents = read('{"a":\n1}\n\n{"b": 2} {"c": 3}\n')

    assert [(1, 1), (2, 4), (3, 4)] == [(document.number, document.line) for document in documents]


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (
            '{"x": 1,\n "a": 1, "a": 2}',
            "a",
            'key "a" already set: keep one of them (line 2, column 10)',
        ),
        ('{"a": 1e999}', "a", "is too large a number"),
        ('{"a": 9223372036854775808}', "a", "needs more than 64 bits"),
        ('{"a": %s}' % ("9" * 5000), "a", "needs more than 64 bits"),
        (
            r'{"a": ["\ud83d"]}',
            "",
            "line 1, column 11: found invalid Unicode character escape code",
        ),
        (r'{"\ud83d": 1}', "", "line 1, column 5: found invalid Unicode character escape code"),
        ('{"a": [}', "", "line 1, column 8: did not find expected node content"),
    ],
)
def test_wrong_json_is_reported_by_line(text: str, field: str, message: str) -> None:
    """A mistake in JSON is named by field and line, as in YAML."""
    problem = only_problem(text)

    assert field == problem.field
    assert problem.message.startswith(message)


def test_a_mistake_in_one_json_document_leaves_the_others() -> None:
    """A duplicate key in one of several JSON documents in a row is only that one's problem (L3)."""
    first, wrong, last = read('{"a": 1}\n{"b": 1, "b": 2}\n{"c": 3}\n')

    assert ({"a": 1}, {"c": 3}) == (first.value, last.value)
    assert "line 2" in wrong.problems[0].message


# --- limits ---------------------------------------------------------------------------------------


def test_a_document_that_is_too_large_is_refused_and_the_others_are_read() -> None:
    """A document of 2 MB is refused with its size and the limit; the rest of the file is read (L3, B1)."""
    large = "kind: DaemonSet\nnote: " + "x" * 2_000_000

    first, refused, last = read(f"a: 1\n---\n{large}\n---\nb: 2\n")

    assert ({"a": 1}, {"b": 2}) == (first.value, last.value)
    assert (None, "DaemonSet") == (refused.value, refused.kind)
    assert "the document has 2000027 bytes; at most 921600 are read" in refused.problems[0].message


def test_a_document_at_the_limit_is_read() -> None:
    """A document of exactly the largest size is read, one of a byte more is not (B1)."""
    text = "a: " + "x" * (DOCUMENT_BYTES_MAX - 3)

    assert () == read(text)[0].problems
    assert 1 == len(read(text + "x")[0].problems)


@pytest.mark.parametrize("kind", ["List", "NodeList", "DaemonSetList"])
def test_a_list_of_objects_may_be_larger(kind: str) -> None:
    """A list of objects may be larger than one object, in YAML and in JSON."""
    objects = {"kind": kind, "items": ["x" * 1000] * 1000}
    as_json = json.dumps(objects, indent=4)
    as_yaml = f"kind: {kind}\nitems:\n" + f"- {'x' * 1000}\n" * 1000

    assert [objects] == values(as_json)
    assert [objects] == values(as_yaml)
    assert DOCUMENT_BYTES_MAX < len(as_yaml) < LIST_BYTES_MAX


def bomb(names: str) -> str:
    """Ten values, each ten times the one before: a billion of them in a few lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, before in zip(names[1:], names, strict=False):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("abcdefghij"),
        "kind: List\n" + bomb("abcdefghijklmnop"),
        f"a: &a {'x' * 400_000}\nb: [{', '.join(['*a'] * 1000)}]",
        "a: &a {k: 1}\nb: &b {<<: [" + "*a, " * 100 + "]}\nc: [" + "*b, " * 5000 + "]",
    ],
    ids=["lists", "in a list of objects", "long text", "merges"],
)
def test_aliases_that_expand_too_far_are_refused_before_they_do(text: str) -> None:
    """A few lines that would expand to gigabytes are refused at once, and nothing is expanded (B1)."""
    problem = only_problem(text)

    assert "aliases (*name) add more than" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 900_000,
        "- " * 450_000,
        "? " * 450_000,
        '{"a":' * 150_000,
        '{"a": ' + "[" * 101 + "]" * 101 + "}",
        '{"a":' * 101 + "1" + "}" * 101,
        "[" * 101 + "]" * 101,
    ],
    ids=["flow", "block", "keys", "json", "json lists", "json mappings", "just too deep"],
)
def test_nesting_that_is_too_deep_is_refused(text: str) -> None:
    """However deep a text nests, it is refused with a message and without a crash (B1)."""
    message = only_problem(text).message

    assert "nested deeper than 100" in message or "exceeded maximum nesting depth" in message


def test_nesting_up_to_the_limit_is_read() -> None:
    """A hundred mappings and lists inside each other are read, in YAML and in JSON."""
    nested = "[" * 99 + "]" * 99

    assert 2 == len(values(f"a: {nested}\n---\n" + f'{{"a": {nested}}}'))


@pytest.mark.parametrize(
    "text",
    [
        "---\n" * 50_000,
        "...\n%a\n" * 50_000,
        "%a\n" * 50_000,
        "---\n...\n" * 50_000,
        "{" + "<<: {}, " * 50 + "}",
        "<<: [" + ", ".join(f"{{k{number}: 1}}" for number in range(50_000)) + "]",
        "? " + "x" * 400_000 + "\n: [" + "{}, " * 100_000 + "]",
        "a: 1" + "_" * 800_000,
        "a: " + "9" * 800_000 + ".5",
        "#" * 800_000,
        "\n" * 800_000,
    ],
    ids=[
        *("separators", "directives between", "directives", "both separators", "many merges"),
        *("a long merge", "a long key", "underscores", "digits", "comment", "empty lines"),
    ],
)
def test_reading_takes_time_in_proportion_to_the_text(text: str) -> None:
    """No text within the limits takes long: ten seconds is far more than any of these needs (B1)."""
    begin = time.process_time()
    read(text)

    assert time.process_time() - begin < 10
