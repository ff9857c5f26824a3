"""What unquoted words mean, held against the rules of Kubernetes' own tools."""

import pytest

from everynode.manifest.scalars import plain, tagged

TAG = "tag:yaml.org,2002:"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("true", True),
        ("True", True),
        ("yes", True),
        ("on", True),
        ("y", True),
        ("false", False),
        ("no", False),
        ("OFF", False),
        ("n", False),
        ("0", 0),
        ("-0", 0),
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("1_000", 1000),
        ("0644", 0o644),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b101", -5),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("08", 8),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.0", 1),
        ("1e3", 1000),
        ("1e300", 1e300),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("200Mi", "200Mi"),
        ("-", "-"),
        ("+", "+"),
        ("...", "..."),
        (".inf.", ".inf."),
        ("0x", "0x"),
        ("tRUE", "tRUE"),
        ("<<", "<<"),
        ("=", "="),
        ("text", "text"),
    ],
)
def test_plain_words_read_as_kubernetes_tools_read_them(text: str, value: object) -> None:
    """A plain word has the value, and the type, that sigs.k8s.io/yaml gives it."""
    read = plain(text)

    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("~ null Null NULL", None),
        ("y Y yes Yes YES true True TRUE on On ON", True),
        ("n N no No NO false False FALSE off Off OFF", False),
    ],
)
def test_every_word_for_true_false_and_null_is_known(words: str, value: object) -> None:
    """All words that mean true, false or null to Kubernetes' tools do so here."""
    assert {plain(word) for word in words.split()} == {value}


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (".nan", "not a finite number"),
        (".NaN", "not a finite number"),
        ("-.inf", "not a finite number"),
        ("+.Inf", "not a finite number"),
        ("1e999", "too large a number"),
        ("9223372036854775808", "more than 64 bits"),
        ("-9223372036854775809", "more than 64 bits"),
        ("9" * 10_000, "more than 64 bits"),
    ],
)
def test_a_number_that_json_cannot_hold_is_refused(text: str, advice: str) -> None:
    """A number that is not finite or needs more than 64 bits is refused, not rounded."""
    with pytest.raises(ValueError, match=advice):
        plain(text)


@pytest.mark.parametrize(
    ("tag", "text", "value"),
    [
        ("str", "12", "12"),
        ("str", "", ""),
        ("int", "12", 12),
        ("float", "1.5", 1.5),
        ("float", "2", 2),
        ("bool", "yes", True),
        ("null", "", None),
    ],
)
def test_a_tag_of_jsons_types_is_obeyed(tag: str, text: str, value: object) -> None:
    """A tag that names a type of JSON gives the word that type."""
    assert value == tagged(TAG + tag, text)


@pytest.mark.parametrize(
    ("tag", "text", "message"),
    [
        (f"{TAG}int", "x", "is not what its tag !!int says"),
        (f"{TAG}int", "yes", "is not what its tag !!int says"),
        (f"{TAG}binary", "YQ==", "has the tag !!binary, which is not supported"),
        (f"{TAG}timestamp", "2020-01-01", "has the tag !!timestamp"),
        (f"{TAG}python/object:os.system", "x", "has the tag !!python/object:os.system"),
        ("!Ref", "x", "has the tag !Ref"),
        ("!\x1b", "x", r"has the tag !\\u001b"),
    ],
)
def test_any_other_tag_is_refused(tag: str, text: str, message: str) -> None:
    """A tag that is not of JSON's types, or that the word contradicts, is refused by its name."""
    with pytest.raises(ValueError, match=message):
        tagged(tag, text)
