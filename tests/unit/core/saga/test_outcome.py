import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import classify

URL = "http://payment-service/charge"
NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert classify(status, {}, b'{"a":1}', url=URL, random=0, now_ms=NOW_MS) == Succeeded({"a": 1})


@pytest.mark.parametrize("body", [b"", b"[1]", b'"x"', b"null", b"<html>", b"\xff\xfe"])
def test_a_2xx_without_a_json_object_merges_nothing(body: bytes) -> None:
    assert classify(200, {}, body, url=URL, random=0, now_ms=NOW_MS) == Succeeded({})


@pytest.mark.parametrize(
    "body", [None, b'{"context": 1}', *(b'{"a":' + b"[" * n + b"]" * n + b"}" for n in (64, 252, 253, 254, 1022))]
)
def test_a_2xx_that_cannot_be_kept_is_unusable(body: bytes | None) -> None:
    assert isinstance(classify(200, {}, body, url=URL, random=0, now_ms=NOW_MS), Unusable)


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 599])
def test_a_temporary_failure_may_have_had_its_effect(status: int) -> None:
    found = classify(status, {}, b"", url=URL, random=0.25, now_ms=NOW_MS)
    assert found == Failed(f"HTTP {status} from {URL}", True, 0.25, None)


@pytest.mark.parametrize("status", [425, 429])
def test_a_call_that_was_turned_away_had_no_effect(status: int) -> None:
    found = classify(status, {"Retry-After": "7"}, b"", url=URL, random=0, now_ms=NOW_MS)
    assert found == Failed(f"HTTP {status} from {URL}", False, 0, 7000)


def test_a_conflict_is_temporary_only_with_retry_after() -> None:
    assert isinstance(classify(409, {}, b"", url=URL, random=0, now_ms=NOW_MS), Rejected)
    found = classify(409, {"Retry-After": "1"}, b"", url=URL, random=0, now_ms=NOW_MS)
    assert found == Failed(f"HTTP 409 from {URL}", True, 0, 1000)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 401, 403, 404, 405])
def test_misconfiguration_is_named(status: int) -> None:
    assert isinstance(classify(status, {}, b"", url=URL, random=0, now_ms=NOW_MS), Misconfigured)


@pytest.mark.parametrize("status", [400, 402, 406, 409, 410, 412, 418, 422, 451, 499])
def test_any_other_4xx_is_a_business_failure_with_its_reason(status: int) -> None:
    found = classify(status, {}, b'{"error": "card\n declined"}', url=URL, random=0, now_ms=NOW_MS)
    assert found == Rejected(f'HTTP {status} from {URL}: {{"error": "card declined"}}', 0)


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        ("3", 3000),
        (" 3 ", 3000),
        ("99999999999999999999", 999_999_999_000),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5000),
        ("Tue, 14 Nov 2023 22:13:15 GMT", 0),
        ("soon", None),
        ("Fri, 31 Dec 2099 23:59:59 +99999999999999999999", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("-1", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_in_both_forms(value: str, wait_ms: int | None) -> None:
    found = classify(503, {"Retry-After": value}, b"", url=URL, random=0, now_ms=NOW_MS)
    assert isinstance(found, Failed)
    assert found.retry_after_ms == wait_ms


@given(
    status=st.integers(100, 999),
    retry_after=st.none() | st.text(max_size=40),
    body=st.none() | st.binary(max_size=2000),
)
def test_no_answer_breaks_the_classification(status: int, retry_after: str | None, body: bytes | None) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    found = classify(status, headers, body, url=URL, random=0, now_ms=NOW_MS)
    if not isinstance(found, Succeeded):
        assert len(found.error) < 1000
        assert found.error.isprintable()
