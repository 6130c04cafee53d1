from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.short_ids import shortened, span

ONE = UUID("018f3c7a-9d10-7abc-8def-0123456789ab")


@given(st.sets(st.uuids(), max_size=20))
def test_a_short_form_names_exactly_its_instance(ids: set[UUID]) -> None:
    for it, form in shortened(ids).items():
        first, last, ending = span(form)
        assert [other for other in ids if first <= other <= last and other.hex.endswith(ending)] == [it]


def test_forms_grow_until_they_differ() -> None:
    twin = UUID("018f3c7a-9d10-7abc-8def-1123456789ab")

    assert shortened([ONE]) == {ONE: "018f3c7a…6789ab"}
    assert len(set(shortened([ONE, twin]).values())) == 2


@pytest.mark.parametrize(
    "text",
    [str(ONE), ONE.hex, str(ONE).upper(), "018f3c7a", "018f3c7a-9d", "018f3c7a…ab", "018f3c7a..89ab", "018f3c7a...9ab"],
)
def test_people_may_type_the_beginning_and_the_end(text: str) -> None:
    first, last, ending = span(text)

    assert first <= ONE <= last
    assert ONE.hex.endswith(ending)


@pytest.mark.parametrize(
    "text", ["", "order-77", "018f", "…89ab", "018f3c7a…89…ab", "018f3c7g", f"{ONE}0", f"{ONE}…ab"]
)
def test_anything_else_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"^id: .*: give "):
        span(text)
