"""The journal's format is kept for ever: what an older version wrote is read the same by this one."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.saga.definition import load, stored_form
from marty_msf.core.saga.events import (
    Broken,
    Due,
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    Started,
    Succeeded,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.identity import CHANCE_BITS, RANDOM_BITS, uuid7, uuid7_in_order
from marty_msf.core.saga.instance import Instance, State
from marty_msf.core.saga.journal import decode, encode, fold
from tests.unit.core.saga.definitions import ORDER, spec

#: Written by the first version. Never edit a line; add lines for new events.
GOLDEN = [
    b'[1000,"start",301000]\n{"saga_id":"s","step":"reserve","context":{"order":7},"data":{}}',
    b'[1010,"ok",{"reservation":"r1"}]\n{"saga_id":"s","step":"charge","context":{"order":7,"reservation":"r1"},"data":{}}',
    b'[1020,"failed","HTTP 503",true,0.5,2000]\n',
    b'[3020,"due"]\n',
    b'[3021,"resumed"]\n',
    b'[3022,"withdrawn"]\n',
    b'[3023,"due"]\n',
    b'[3030,"rejected","HTTP 402",0.5]\n{"saga_id":"s","step":"charge","context":{},"data":{},"result":null}',
    b'[3040,"unusable","too large"]\n{"saga_id":"s","step":"reserve","context":{},"data":{},"result":{"reservation":"r1"}}',
    b'[3050,"misconfigured","HTTP 404"]\n',
]


def test_a_journal_of_the_first_version_still_folds_to_the_same_instance() -> None:
    folded = fold(ORDER, {"order": 7}, GOLDEN)

    assert folded.instance.state is State.PARKED
    assert folded.instance.context == {"order": 7, "reservation": "r1"}
    assert [it.step for it in folded.instance.happened] == [0]
    assert folded.instance.error == "charge was refused: HTTP 402; undo of reserve: HTTP 404"
    assert folded.bodies == {0: GOLDEN[8].partition(b"\n")[2]}


def test_entries_are_written_as_they_are_read() -> None:
    for entry in GOLDEN:
        now_ms, event, body = decode(entry)
        assert encode(event, now_ms, body) == entry


@given(
    event=st.one_of(
        st.builds(Started, st.integers(0, 10**13)),
        st.builds(Succeeded, st.dictionaries(st.text(max_size=9), st.integers(-1000, 1000) | st.text(max_size=9))),
        st.builds(Failed, st.text(max_size=9), st.booleans(), st.floats(0, 1), st.none() | st.integers(0, 10**6)),
        st.builds(Rejected, st.text(max_size=9), st.floats(0, 1)),
        st.builds(Misconfigured, st.text(max_size=9)),
        st.builds(Unusable, st.text(max_size=9)),
        st.builds(Broken, st.text(max_size=9)),
        st.sampled_from([Due(), Resumed(), Restarted(), Withdrawn()]),
    ),
    body=st.binary(max_size=50),
)
def test_every_event_survives_the_journal(event: Event, body: bytes) -> None:
    assert decode(encode(event, 7, body)) == (7, event, body)


def test_an_instance_nobody_took_up_folds_to_pending() -> None:
    folded = fold(ORDER, {"a": 1}, [])
    assert (folded.instance, folded.bodies) == (Instance({"a": 1}), {})


def test_the_revision_names_what_instances_see_and_nothing_else() -> None:
    one, two = spec({"name": "a"}), spec({"name": "a"}, workers=77, replicas=3)
    other = spec({"name": "a", "data": {"x": 1}})

    assert stored_form(one) == stored_form(two)
    assert load(stored_form(one)).revision == load(stored_form(two)).revision
    assert load(stored_form(other)).revision != load(stored_form(one)).revision


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**RANDOM_BITS - 1))
def test_ids_are_version_7_and_sort_by_time(now_ms: int, random: int) -> None:
    made = UUID(bytes=uuid7(now_ms, random))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == now_ms
    if now_ms:
        assert uuid7(now_ms - 1, 2**RANDOM_BITS - 1) < made.bytes


@given(st.integers(0, 2**48 * 1_000_000 - 1), st.integers(0, 2**CHANCE_BITS - 1))
def test_ids_that_a_process_makes_are_in_their_order(now_ns: int, chance: int) -> None:
    made = UUID(bytes=uuid7_in_order(now_ns, chance))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == now_ns // 1_000_000
    # A quarter of a microsecond is what twelve bits tell apart.
    if now_ns >= 250:
        assert uuid7_in_order(now_ns - 250, 2**CHANCE_BITS - 1) < made.bytes
