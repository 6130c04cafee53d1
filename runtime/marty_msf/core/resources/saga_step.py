"""One step of a saga: what it calls and how, what undoes it, and what shields the service behind it."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import (
    ACTION,
    AUTHORITY,
    SERVICE,
    Expression,
    Model,
    Retry,
    Rule,
    SecretKeyRef,
    Topic,
    check_waits,
)
from marty_msf.core.resources.step_cache import CachedResult

NAME: Final = r"^[a-z][a-z0-9_]*$"
_MEMBER: Final = "[A-Za-z_][A-Za-z0-9_]*"
_PLACE: Final = rf"[{{]{_MEMBER}([.]{_MEMBER})*[}}]"
#: An absolute URL whose path and query may hold `{name}` or `{name.member}`; never its host, which data must not choose.
URL: Final = (
    rf"^https?://{AUTHORITY}(/([A-Za-z0-9._~!$&()*+,;=:@%/-]|{_PLACE})*)?"
    rf"([?]([A-Za-z0-9._~!$&()*+,;=:@%/?-]|{_PLACE})*)?$"
)
HANDLER: Final = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
HEADER: Final = r"^[A-Za-z][A-Za-z0-9-]*$"
#: Printable ASCII: nothing that could end the header and begin another one.
HEADER_VALUE: Final = r"^[ -~]*$"

#: What the worker says itself, and what belongs to the connection.
OWN_HEADERS: Final = (
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"),
    *("idempotency-key", "te", "trailer", "transfer-encoding", "upgrade", "traceparent", "tracestate"),
)
#: Credentials do not stand in a resource, which many people may read.
SECRET_HEADERS: Final = ("authorization", "cookie", "proxy-authorization")

HeaderName = Annotated[str, Field(min_length=1, max_length=100, pattern=HEADER)]
HeaderValue = Annotated[str, Field(max_length=1024, pattern=HEADER_VALUE)]


class HeaderSecretRef(SecretKeyRef):
    """The key of a Secret whose value is a header's value."""

    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key inside the Secret.")


class CaSecretRef(SecretKeyRef):
    """The key of a Secret with certificates in PEM form."""

    key: str = Field(
        "ca.crt", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key inside the Secret."
    )


class SecretHeader(Model):
    """A header whose value is read from a Secret."""

    name: HeaderName = Field(description="Name of the header.")
    secret_ref: HeaderSecretRef = Field(description="Secret key with the whole value, as in `Bearer …`.")


class Tls(Model):
    """How the service's certificate is verified."""

    ca_secret_ref: CaSecretRef = Field(
        description="Secret key with the certificates (PEM) to trust instead of the public ones."
    )


def _is_one_of(header: str, names: Sequence[str]) -> str:
    """CEL: whether a header's name is one of these in any case."""
    return f"{header}.lowerAscii() in [{', '.join(repr(name) for name in names)}]"


class HttpCall(Model):
    """How the service is called over HTTP when the default, POST http://<service>/<action>, does not fit."""

    url: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        pattern=URL,
        description="Called instead of http://<service>/<action>. {name} in its path or query is replaced by the member"
        " of the context or of data, percent-encoded.",
    )
    compensation_url: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        pattern=URL,
        description="Called instead of http://<service>/<compensation>; needed with url when the step has a compensation.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(
        "POST", description="Method of the call and of its undo; a GET has no body and no undo."
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, max_length=16, description="Sent with the call and with its undo."
    )
    headers_from: list[SecretHeader] = Field(
        default_factory=list, max_length=8, description="Headers whose values are read from Secrets."
    )
    tls: Tls | None = Field(None, description="For https URLs; by default the public authorities are trusted.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            f"!self.headers.exists(k, {_is_one_of('k', OWN_HEADERS)})",
            "a header is set by the worker itself or belongs to the connection: remove it",
            field=".headers",
        ),
        Rule(
            f"!self.headers.exists(k, {_is_one_of('k', SECRET_HEADERS)})",
            "a header carries credentials: read it from a Secret by headersFrom",
            field=".headers",
        ),
        Rule(
            f"!self.headersFrom.exists(h, {_is_one_of('h.name', OWN_HEADERS)})",
            "a header is set by the worker itself or belongs to the connection: remove it",
            field=".headersFrom",
        ),
        Rule(
            "!has(self.tls) || (has(self.url) && self.url.startsWith('https://'))",
            "tls is for an https URL: set url to one, or remove tls",
            field=".tls",
        ),
    )


class PythonCall(Model):
    """The step as a function in the worker's own process."""

    handler: str = Field(
        min_length=1,
        max_length=200,
        pattern=HANDLER,
        description="Name under which spec.runtime.handlers registers the functions that do and undo the step.",
    )


class KafkaCall(Model):
    """The step as a command message, which the service answers with a reply message."""

    command_topic: Topic = Field(description="Kafka topic the command is sent to; its ce_type is the step's action.")
    reply_topic: Topic = Field(description="Kafka topic the service replies to, of this Saga alone if it can be.")
    key: Expression | None = Field(
        None, description="CEL over the context for the command's key; by default the instance's id."
    )


class Call(Model):
    """How the step is called when the default, POST http://<service>/<action>, does not fit: exactly one of the forms."""

    http: HttpCall | None = Field(None, description="Over HTTP.")
    python: PythonCall | None = Field(None, description="A Python function in the worker; needs spec.runtime.handlers.")
    kafka: KafkaCall | None = Field(None, description="A command over Kafka and its reply; needs spec.kafka.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "[has(self.http), has(self.python), has(self.kafka)].exists_one(form, form)",
            "has no form, or several: give exactly one of http, python and kafka",
        ),
    )


class CircuitBreaker(Model):
    """Stops calling a service that fails again and again; instances wait and no attempts are used up meanwhile."""

    failure_threshold: int = Field(5, ge=1, le=1000, description="Failures in a row that open it.")
    open_seconds: int = Field(
        60, ge=1, le=3600, description="Time without calls; then one call tries whether the service is back."
    )


class Step(Model):
    """One call to a service, with the call that undoes it."""

    name: str = Field(min_length=1, max_length=63, pattern=NAME, description="Unique within the saga.")
    service: str = Field(
        min_length=1, max_length=253, pattern=SERVICE, description="Service called: POST http://<service>/<action>."
    )
    action: str = Field(min_length=1, max_length=200, pattern=ACTION, description="Path that does the step.")
    compensation: str | None = Field(
        None, min_length=1, max_length=200, pattern=ACTION, description="Path that undoes the step."
    )
    condition: Expression | None = Field(
        None, description="CEL over the context; the step is skipped when false or when a name in it is missing."
    )
    parallel_group: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        pattern=NAME,
        description="Adjacent steps with the same group are called at the same time.",
    )
    pivot: bool = Field(False, description="Point of no return: from here on steps are only retried, never undone.")
    data: dict[str, Any] = Field(
        default_factory=dict,
        max_length=256,
        description="Sent to the service as it is.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    timeout_ms: int | None = Field(None, ge=1, le=3_600_000, description="Replaces stepDefaults.timeoutMs.")
    retry: Retry | None = Field(None, description="Replaces stepDefaults.retry as a whole.")
    call: Call | None = Field(None, description="How the step is called; by default POST http://<service>/<action>.")
    circuit_breaker: CircuitBreaker | None = Field(
        None, description="Stops calling the service while it fails; shared by all pods of this Saga."
    )
    cache: CachedResult | None = Field(
        None, description="Uses earlier answers again; only for steps that change nothing and so have no compensation."
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "!has(self.parallelGroup) || self.parallelGroup != self.name",
            "the step is in a parallelGroup that bears its own name: give the group another name",
            field=".parallelGroup",
        ),
        Rule(
            "!has(self.parallelGroup) || !self.pivot",
            "the pivot cannot be in a parallelGroup, whose other steps might have to be undone: take it out of the group",
            field=".parallelGroup",
        ),
        Rule(
            "!has(self.call) || !has(self.call.http)"
            " || has(self.call.http.compensationUrl) == (has(self.call.http.url) && has(self.compensation))",
            "url and compensation go with a compensationUrl, and it with them: give all three or leave it out",
            field=".call.http",
        ),
        Rule(
            "!has(self.call) || !has(self.call.http) || self.call.http.method != 'GET' || !has(self.compensation)",
            "a GET cannot undo anything: use another method, or remove the compensation",
            field=".call.http.method",
        ),
        Rule(
            "!has(self.cache) || !(has(self.compensation) || self.pivot)",
            "what is undone, or cannot be, has to be done each time: remove the cache, or the compensation and pivot",
            field=".cache",
        ),
        Rule(
            "!has(self.cache) || !has(self.call) || !has(self.call.kafka)",
            "replies over Kafka are not cached: call the step over HTTP, or remove the cache",
            field=".cache",
        ),
    )


def check_step(path: str, step: Step) -> None:
    """Raise InvalidDefinition for what is wrong within one step; the RULES of the models say the same to the API server."""
    for field, problem, remedy in _problems(step):
        raise InvalidDefinition(f"{path}.{field}", problem, remedy)
    if step.retry:
        check_waits(f"{path}.retry.initialBackoffMs", step.retry.initial_backoff_ms, step.retry.max_backoff_ms)


def _problems(step: Step) -> Iterator[tuple[str, str, str]]:
    if step.parallel_group == step.name:
        yield "parallelGroup", f"{step.name!r} is the step's own name", "give the group another name"
    if step.parallel_group and step.pivot:
        yield "parallelGroup", f"the pivot {step.name!r} is in a group", "take it out of the group"
    if step.call:
        yield from _form_problems(step.call)
    if step.cache and (step.compensation or step.pivot):
        which = "a compensation" if step.compensation else "no way back"
        yield "cache", f"is on {step.name!r}, which has {which} and is done each time", "remove the one or the other"
    if step.cache and step.call and step.call.kafka:
        yield "cache", f"is on {step.name!r}, which is called over Kafka", "call it over HTTP, or remove the cache"
    if step.call and step.call.http:
        yield from _http_problems(step.call.http, step.compensation)


def _form_problems(call: Call) -> Iterator[tuple[str, str, str]]:
    forms = sum(form is not None for form in (call.http, call.python, call.kafka))
    if forms != 1:
        yield "call", f"has {'several forms' if forms else 'no form'}", "give exactly one of http, python and kafka"


def _http_problems(call: HttpCall, compensation: str | None) -> Iterator[tuple[str, str, str]]:
    for field, names in (("headers", list(call.headers)), ("headersFrom", [item.name for item in call.headers_from])):
        for name in names:
            if name.lower() in OWN_HEADERS:
                yield f"call.http.{field}", f"{name!r} is set by the worker or the connection", "remove it"
    for name in call.headers:
        if name.lower() in SECRET_HEADERS:
            yield "call.http.headers", f"{name!r} carries credentials", "read it from a Secret by headersFrom"
    if call.method == "GET" and compensation:
        yield "call.http.method", "is GET, which cannot undo anything", "use another method or remove the compensation"
    if call.tls and not (call.url and call.url.startswith("https://")):
        yield "call.http.tls", "is for an https URL", "set url to one, or remove tls"
    if call.url and compensation and not call.compensation_url:
        yield "call.http.compensationUrl", "is missing beside url and compensation", "give the URL that undoes the step"
    if call.compensation_url and not (call.url and compensation):
        yield "call.http.compensationUrl", "stands without url and compensation", "give both or remove it"
