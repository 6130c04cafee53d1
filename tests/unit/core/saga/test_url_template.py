"""URLs of steps: values are data, whatever they look like."""

from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.url_template import Template, UnfilledTemplate

PATH = "spec.steps[0].call.http.url"


def url(source: str, context: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    return Template(source, PATH).url(context, data or {})


@pytest.mark.parametrize(
    ("source", "context", "data", "expected"),
    [
        ("http://orders/orders/{order_id}", {"order_id": "o7"}, {}, "http://orders/orders/o7"),
        ("https://a.b:8443/x/{n}?q={q}", {"n": 7}, {"q": "a&b=c d"}, "https://a.b:8443/x/7?q=a%26b%3Dc%20d"),
        ("http://a/{customer.id}", {"customer": {"id": "ä/é"}}, {}, "http://a/%C3%A4%2F%C3%A9"),
        ("http://a/{id}", {"id": "context"}, {"id": "data"}, "http://a/context"),
        ("http://[::1]:80/{id}", {"id": "1"}, {}, "http://[::1]:80/1"),
        ("http://a", {}, {}, "http://a"),
        ("http://a/%7Bid%7D", {}, {}, "http://a/%7Bid%7D"),
    ],
)
def test_names_are_filled_in(source: str, context: dict[str, Any], data: dict[str, Any], expected: str) -> None:
    assert url(source, context, data) == expected


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..") and text.isprintable()))
def test_a_value_never_leaves_its_segment(value: str) -> None:
    made = urlsplit(url("http://orders/a/{id}/b", {"id": value}))

    assert (made.netloc, made.query, made.fragment) == ("orders", "", "")
    assert [unquote(part) for part in made.path.split("/")] == ["", "a", value, "b"]


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ({}, "neither in the context nor in the step's data"),
        ({"id": {"x": 1}}, "is a dict"),
        ({"id": None}, "is a NoneType"),
        ({"id": True}, "is a bool"),
        ({"id": 1.5}, "is a float"),
        ({"id": ""}, "is ''"),
        *(({"id": text}, f"is {text!r}: a URL takes an integer there, or text of 1 to") for text in (".", "..")),
        ({"id": ".."}, "characters other than '.' and '..'; edit the context"),
        ({"id": "x" * 2001}, "has 2001 characters"),
        ({"id": "\ud800"}, "lone surrogate"),
    ],
)
def test_what_fits_into_no_url_is_said_with_path_and_remedy(context: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnfilledTemplate) as error:
        url("http://a/{id}", context)
    assert str(error.value).startswith(f"{PATH}: {{id}} of 'http://a/{{id}}' ")
    assert problem in str(error.value)
    assert "resume the instance" in str(error.value)


def test_a_member_of_something_else_is_missing() -> None:
    with pytest.raises(UnfilledTemplate, match=r"\{customer\.id\}"):
        url("http://a/{customer.id}", {"customer": "c1"})


@pytest.mark.parametrize(
    "source",
    [
        "orders/{id}",
        "ftp://a/b",
        "http://{host}/a",
        "http://a.{zone}/b",
        "http://a:{port}/b",
        "http://a{id}/b",
        "http://user:secret@a/b",
        "http://a:70000/",
        "http://a:0/",
        "http:///b",
        "http://a/{}",
        "http://a/{a b}",
        "http://a/{a.}",
        "http://a/{a",
        "http://a/a}",
        "http://a/{{a}}",
        "http://a/../b",
        "http://a/b#c",
        "http://a/b c",
        "http://a/\n",
        "http://a\\b/",
        "http://a/ä",
        "",
    ],
)
def test_what_can_never_be_a_url_is_refused_with_its_path(source: str) -> None:
    with pytest.raises(InvalidDefinition) as error:
        Template(source, PATH)
    assert error.value.path == PATH
