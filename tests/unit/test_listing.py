"""Lists compared with what is known: what is missing is gone, unless that is too much to believe."""

from everynode.runtime.listing import Listing


def end(listing: Listing[str], named: str, known: str, *, hold: bool = False) -> str:
    """Go through one list; each letter is something."""
    listing.begin()
    for key in named:
        listing.named(key)
    return "".join(listing.end(list(known), hold=hold))


def test_what_is_not_named_is_gone() -> None:
    """A list that names most of what is known ends the rest, in the order in which it was known."""
    listing = Listing[str]()
    assert end(listing, "bde", "abcde") == "ac"
    assert listing.complete


def test_a_list_that_names_everything_ends_nothing() -> None:
    """Nothing missing, nothing gone; more than is known is no matter."""
    listing = Listing[str]()
    assert end(listing, "abc", "ab") == ""
    assert listing.complete


def test_a_great_loss_is_held_back_until_a_second_list_agrees() -> None:
    """More than half missing ends nothing at first, and everything that the next list misses as well."""
    listing = Listing[str]()
    assert end(listing, "a", "abcd") == ""
    assert not listing.complete
    assert listing.doubted_count == 3
    assert end(listing, "ab", "abcd") == "cd"
    assert listing.complete


def test_exactly_half_is_believed() -> None:
    """Half of what is known may go at once."""
    assert end(Listing(), "ab", "abcd") == "cd"


def test_the_only_node_counts_as_a_great_loss() -> None:
    """In a fleet of one node, its loss is all of it: it takes a second list."""
    listing = Listing[str]()
    assert end(listing, "", "a") == ""
    assert end(listing, "", "a") == "a"


def test_agreement_is_about_the_same_things() -> None:
    """What only the second of two great losses misses waits for a third list."""
    listing = Listing[str]()
    assert end(listing, "ab", "abcdef") == ""
    assert end(listing, "cf", "abcdef") == "de"
    assert not listing.complete
    assert end(listing, "cf", "abcf") == "ab"
    assert listing.complete


def test_a_small_loss_after_a_great_one_is_believed() -> None:
    """A second list that names nearly everything is an ordinary list."""
    listing = Listing[str]()
    assert end(listing, "ab", "abcdef") == ""
    assert end(listing, "bcdef", "abcdef") == "a"
    assert listing.complete


def test_something_observed_between_lists_is_doubted_no_longer() -> None:
    """What was missing and is then observed has to be missing twice again."""
    listing = Listing[str]()
    end(listing, "", "ab")
    listing.named("a")
    assert end(listing, "", "ab") == "b"
    assert end(listing, "", "a") == "a"


def test_a_list_that_was_interrupted_counts_for_nothing() -> None:
    """What a list named before it was broken off neither stays nor ends anything."""
    listing = Listing[str]()
    listing.begin()
    listing.named("a")
    listing.interrupted()
    assert listing.end(["a", "b"]) == []
    assert not listing.complete


def test_an_end_without_a_beginning_ends_nothing() -> None:
    """An adapter that says a list ended which never began removes nothing."""
    assert Listing[str]().end(["a"]) == []


def test_holding_back_on_demand() -> None:
    """With ``hold`` even a small loss waits: the list before it was not believed either."""
    listing = Listing[str]()
    assert end(listing, "abc", "abcd", hold=True) == ""
    assert not listing.complete
    assert end(listing, "abc", "abcd") == "d"
    assert listing.complete
