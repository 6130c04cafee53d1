"""TLS, logins and rights against a real broker that insists on them: events go through, and what is wrong is named."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from marty_msf.core.errors import AuthenticationFailed, BrokerRefused, BrokerUnavailable, TopicUnavailable
from marty_msf.core.records import tail
from marty_msf.core.resources.kafka import Compression
from marty_msf.core.worker_status import Problem, ProblemReason
from marty_msf.store.database import open_pool
from marty_msf.worker.board import Board
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.consumer import Consumer
from marty_msf.worker.broker.fencing import fence
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Message, Tuning
from marty_msf.worker.broker.transactional import TransactionalProducer
from tests.integration.projection.support import projecting, rows, spec
from tests.integration.relay.setup import drain, make_relay, take_lanes
from tests.support.kafka import create_topic, read_topic
from tests.support.secure_broker import (
    CERTIFIED,
    FOREIGN_AUTHORITY,
    FOREIGN_CERTIFICATE,
    GUEST,
    PASSWORD,
    USER,
    WRONG_PASSWORD,
    SecureBroker,
    allow,
    login,
    secure_broker,
    trust,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.kafka

AS_GUEST = login("plain", "guest-login")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureBroker]:
    async with secure_broker(tmp_path_factory.mktemp("secure")) as made:
        yield made


@pytest.fixture
def topic(broker: SecureBroker, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:200]
    create_topic(broker.admin, name, 1)
    return name


async def send(connection: KafkaConnection, topic: str, *values: bytes, tuning: Tuning | None = None) -> None:
    """One batch or several, acknowledged."""
    producer = KafkaProducer(connection, {}, tuning=tuning or Tuning())
    try:
        await producer.start()
        await producer.acknowledged(await producer.send({(topic, 0): messages(*values)}))
    finally:
        await producer.stop()


def messages(*values: bytes) -> Sequence[Message]:
    return [tail(b"key", value, []) for value in values]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("listener", "kafka"),
    [
        pytest.param("TLS", trust(), id="tls"),
        pytest.param("MTLS", {**trust(), **login("tls", CERTIFIED)}, id="client-certificate"),
        pytest.param("LOGIN", login("plain"), id="plain"),
        pytest.param("LOGIN", login("scram-sha-256"), id="scram-sha-256"),
        pytest.param("LOGIN", login("scram-sha-512"), id="scram-sha-512"),
        pytest.param("LOGIN", login("scram-sha-512", "guest-login", username=USER), id="username-in-the-spec"),
        pytest.param("LOGINTLS", {**trust(), **login("plain")}, id="plain-over-tls"),
        pytest.param("LOGINTLS", {**trust(), **login("scram-sha-512")}, id="scram-over-tls"),
    ],
)
async def test_a_relay_writes_and_a_projection_reads(
    broker: SecureBroker,
    topic: str,
    postgres_url: str,
    conn: asyncpg.Connection,
    listener: str,
    kafka: dict[str, Any],
) -> None:
    for number in range(10):
        await conn.execute(
            "SELECT marty.enqueue_event($1, 'order_created', $2::jsonb, $3, 'order')",
            topic,
            f'{{"order_id": "o-{number}", "customer_id": "c", "total": {number}}}',
            f"o-{number}",
        )
    pool, producer = await open_pool(postgres_url, 4, "test"), KafkaProducer(broker.connection(listener, **kafka), {})
    try:
        await producer.start()
        relay = make_relay(pool, producer, "pod-1/a")
        await take_lanes(pool, relay, "pod-1/a")
        assert await drain(relay) == 10
    finally:
        await producer.stop()
        await pool.close()

    servers = broker.broker.at(listener)
    value = spec(servers, topic, kafka={"bootstrapServers": servers, **kafka})
    async with projecting(postgres_url, value, secrets=broker.secrets) as running:
        await eventually(lambda: rows(conn), lambda found: len(found) == 10)
        assert running.board.current() == []


WRONG = {
    "a wrong password": ("LOGIN", login("plain", WRONG_PASSWORD), AuthenticationFailed, ["'shop' (PLAIN)", "Secret"]),
    "a wrong scram password": (
        "LOGINTLS",
        {**trust(), **login("scram-sha-512", WRONG_PASSWORD)},
        AuthenticationFailed,
        ["authentication failed for user 'shop' (SCRAM-SHA-512)", "check Secret 'wrong-password'"],
    ),
    "plaintext to a port with TLS": ("TLS", {}, BrokerRefused, ["spec.kafka.tls", "speaks TLS only", "set it"]),
    "TLS to a port without": ("HOST", trust(), BrokerRefused, ["spec.kafka.tls", "speaks no TLS", "remove it"]),
    "nobody where a login is wanted": (
        "LOGIN",
        {},
        BrokerRefused,
        ["spec.kafka.authentication", "wants a login (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)"],
    ),
    "nobody where a login over TLS is wanted": ("LOGINTLS", trust(), BrokerRefused, ["wants a login (PLAIN, SCRAM"]),
    "a login where none is taken": ("HOST", login("plain"), BrokerRefused, ["takes no user and password"]),
    "a login without TLS to a port with TLS": ("LOGINTLS", login("plain"), BrokerRefused, ["speaks TLS only"]),
    "a login over TLS to a port without": ("LOGIN", {**trust(), **login("plain")}, BrokerRefused, ["speaks no TLS"]),
    "a mechanism that is not offered": (
        "LOGINTLS",
        {**trust(), **login("scram-sha-256")},
        BrokerRefused,
        ["does not offer SCRAM-SHA-256", "(PLAIN, SCRAM-SHA-512)"],
    ),
    "an authority that issued nothing": (
        "TLS",
        trust(FOREIGN_AUTHORITY),
        BrokerRefused,
        ["spec.kafka.tls.trustedCertificates", "is not trusted"],
    ),
    "the authorities of the system": ("TLS", {"tls": {}}, BrokerRefused, ["is not trusted"]),
    "no certificate where one is wanted": (
        "MTLS",
        trust(),
        AuthenticationFailed,
        ["wants a certificate of the client"],
    ),
    "a certificate of a foreign authority": (
        "MTLS",
        {**trust(), **login("tls", FOREIGN_CERTIFICATE)},
        AuthenticationFailed,
        ["refuses the client's certificate", "check Secret 'foreign-certificate'"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_told_by_writers_and_readers(broker: SecureBroker, name: str) -> None:
    listener, kafka, error, says = WRONG[name]
    connection = broker.connection(listener, **kafka)
    producer, consumer = KafkaProducer(connection, {}), Consumer(connection, "test")
    try:
        for client in (producer, consumer):
            with pytest.raises(error) as refused:
                await client.start()
            assert type(refused.value) is error
            for text in (broker.broker.at(listener), *says):
                assert text in str(refused.value)
            assert PASSWORD not in str(refused.value)
    finally:
        await producer.stop()
        await consumer.stop()


async def test_a_broker_that_is_not_there_is_no_question_of_the_login(broker: SecureBroker) -> None:
    nowhere = broker.spec("LOGIN", **login("plain")).model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    producer = KafkaProducer(KafkaConnection.of(nowhere, broker.secrets), {})
    with pytest.raises(BrokerUnavailable) as refused:
        await producer.start()
    assert type(refused.value) is BrokerUnavailable


@pytest.mark.postgres
async def test_a_corrected_secret_is_used_by_the_next_connection(
    broker: SecureBroker, topic: str, postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / USER).mkdir()
    (tmp_path / USER / "password").write_text("old")
    servers = broker.broker.at("LOGIN")
    value = spec(servers, topic, kafka={"bootstrapServers": servers, **login("plain")})
    async with projecting(postgres_url, value, secrets=tmp_path) as running:
        (problem,) = await eventually(_problems(running.board))
        assert problem.reason is ProblemReason.BROKER_UNAVAILABLE
        assert problem.blocking
        assert "authentication failed for user 'shop'" in problem.message
        (tmp_path / USER / "password").write_text(PASSWORD)
        await eventually(_problems(running.board), lambda problems: problems == [])


async def test_topics_that_are_missing_or_forbidden_are_told_apart(broker: SecureBroker, topic: str) -> None:
    missing, own = f"{topic}-missing", f"{topic}-own"
    create_topic(broker.admin, own, 1)
    # Who may write nothing at all gets no producer id either.
    await asyncio.to_thread(allow, broker.admin, GUEST, own, AclOperation.WRITE)
    user, guest = (KafkaProducer(broker.connection("LOGIN", **kafka), {}) for kafka in (login("plain"), AS_GUEST))
    try:
        await user.start()
        assert await user.partitions([topic, missing]) == {topic: 1, missing: 0}
        said = user.unavailable([missing])
        assert said.topics == {missing}
        assert str(said) == f"Kafka topic '{missing}' does not exist: create it or correct the name"
        await guest.start()
        assert await guest.partitions([topic, own]) == {topic: 0, own: 1}
        said = guest.unavailable([topic])
        assert said.topics == {topic}
        assert f"'{topic}' is forbidden to this client: grant it Write and Describe on the topic" in str(said)
    finally:
        await user.stop()
        await guest.stop()


async def test_who_may_write_nothing_is_told_so(broker: SecureBroker) -> None:
    # A certificate that is trusted, but whose user was granted nothing: the broker's own.
    secret = broker.secrets / "broker-certificate"
    secret.mkdir(exist_ok=True)
    for end in ("crt", "key"):
        (secret / f"user.{end}").write_text((broker.directory / f"broker.{end}").read_text())
    producer = KafkaProducer(broker.connection("MTLS", **trust(), **login("tls", secret.name)), {})
    with pytest.raises(BrokerRefused, match="no idempotent writing to the client's certificate: grant it Write"):
        await producer.start()


async def test_transactions_need_rights_on_ids_groups_and_topics(broker: SecureBroker, topic: str) -> None:
    guest, id_, grant = broker.connection("LOGIN", **AS_GUEST), f"marty-relay.shop.1.{topic}", broker.admin
    prefix, named = "marty-relay.shop.", ResourcePatternType.PREFIXED
    wanted = (
        "grant it Write and Describe on the transactional ids, and Read on the groups, that begin with 'marty-relay.'"
    )

    async def note() -> str:
        return "a note"

    async def transact() -> None:
        producer = TransactionalProducer(
            guest, {}, (await fence(guest, [id_], 60))[id_], tuning=Tuning(), acknowledge_seconds=10
        )
        try:
            await producer.start()
            await producer.transact({(topic, 0): messages(b"x")}, note)
        finally:
            await producer.stop()

    with pytest.raises(BrokerRefused, match=wanted):
        await transact()
    for operation in (AclOperation.WRITE, AclOperation.DESCRIBE):
        await asyncio.to_thread(allow, grant, GUEST, prefix, operation, ResourceType.TRANSACTIONAL_ID, named)
    with pytest.raises(BrokerRefused, match=wanted):
        await transact()
    await asyncio.to_thread(allow, grant, GUEST, prefix, AclOperation.READ, ResourceType.GROUP, named)
    await asyncio.to_thread(allow, grant, GUEST, topic, AclOperation.DESCRIBE)
    with pytest.raises(TopicUnavailable, match="grant it Read, Write and Describe") as refused:
        await transact()
    assert refused.value.topics == {topic}
    for operation in (AclOperation.READ, AclOperation.WRITE):
        await asyncio.to_thread(allow, grant, GUEST, topic, operation)
    await transact()
    assert [it.value for it in read_topic(broker.admin, topic)] == [b"x"]
    assert (await fence(guest, [id_], 60))[id_].last.text == "a note"


async def test_a_topic_that_may_be_seen_but_not_written_or_read_is_named(broker: SecureBroker, topic: str) -> None:
    own = f"{topic}-own"
    create_topic(broker.admin, own, 1)
    await asyncio.to_thread(allow, broker.admin, GUEST, own, AclOperation.WRITE)
    await asyncio.to_thread(allow, broker.admin, GUEST, topic, AclOperation.DESCRIBE)
    guest = broker.connection("LOGIN", **AS_GUEST)
    with pytest.raises(TopicUnavailable, match="forbidden to this client: grant it Write and Describe") as refused:
        await send(guest, topic, b"x")
    assert refused.value.topics == {topic}

    consumer = Consumer(guest, "test")
    try:
        await consumer.start()
        assert await consumer.describe([topic]) == {topic: [0]}
        await consumer.assign({(topic, 0): 0}, ())
        with pytest.raises(TopicUnavailable, match="forbidden to this client: grant it Read and Describe") as refused:
            await _fetch_for_ever(consumer)
        assert refused.value.topics == {topic}
    finally:
        await consumer.stop()


@pytest.mark.postgres
async def test_a_projection_waits_for_the_right_to_read(
    broker: SecureBroker, topic: str, postgres_url: str, conn: asyncpg.Connection
) -> None:
    await asyncio.to_thread(allow, broker.admin, GUEST, topic, AclOperation.DESCRIBE)
    servers = broker.broker.at("LOGIN")
    value = spec(servers, topic, kafka={"bootstrapServers": servers, **AS_GUEST})
    async with projecting(postgres_url, value, secrets=broker.secrets) as running:
        (problem,) = await eventually(_problems(running.board))
        assert (problem.reason, problem.blocking) == (ProblemReason.TOPIC_UNAVAILABLE, True)
        assert f"'{topic}' is forbidden to this client: grant it Read" in problem.message
        await asyncio.to_thread(allow, broker.admin, GUEST, topic, AclOperation.READ)
        await eventually(_problems(running.board), lambda problems: problems == [])


CODECS = {Compression.NONE: 0, Compression.GZIP: 1, Compression.SNAPPY: 2, Compression.LZ4: 3, Compression.ZSTD: 4}


@pytest.mark.parametrize("compression", Compression, ids=str)
async def test_batches_are_compressed_as_told(broker: SecureBroker, topic: str, compression: Compression) -> None:
    await send(broker.connection("HOST"), topic, b"a" * 5000, b"b" * 5000, tuning=Tuning(compression=compression))
    assert [batch.codec for batch in stored(broker, topic)] == [CODECS[compression]]
    assert [message.value for message in read_topic(broker.admin, topic)] == [b"a" * 5000, b"b" * 5000]


async def test_batches_are_as_large_as_told(broker: SecureBroker, topic: str) -> None:
    values = [b"%d" % number * 300 for number in range(8)]
    await send(broker.connection("HOST"), topic, *values, b"large" * 1000, tuning=Tuning(batch_bytes=1024))
    assert [batch.records for batch in stored(broker, topic)] == [3, 3, 2, 1]
    assert max(batch.bytes for batch in stored(broker, topic)[:-1]) <= 1024
    assert [message.value for message in read_topic(broker.admin, topic)] == [*values, b"large" * 1000]


async def test_a_batch_that_is_not_full_lingers_and_a_full_one_does_not(broker: SecureBroker, topic: str) -> None:
    tuning = Tuning(linger_ms=1000, batch_bytes=1024)
    producer = KafkaProducer(broker.connection("HOST"), {}, tuning=tuning)
    try:
        await producer.start()
        start = asyncio.get_running_loop().time()
        full, rest = await producer.send({(topic, 0): messages(b"a" * 900, b"b" * 900)})
        await full.acknowledged
        assert not rest.acknowledged.done()
        await producer.acknowledged([full, rest])
        assert asyncio.get_running_loop().time() - start >= 1
    finally:
        await producer.stop()


class Batch:
    """What a record batch in the broker's log says of itself (kafka.apache.org/documentation, Message Format)."""

    def __init__(self, data: bytes) -> None:
        self.bytes = len(data)
        self.codec = struct.unpack_from(">h", data, 21)[0] & 0b111
        self.records = struct.unpack_from(">i", data, 57)[0]


def stored(broker: SecureBroker, topic: str) -> list[Batch]:
    """The record batches of a topic's first partition."""
    data = (broker.directory / "data" / f"{topic}-0" / f"{0:020}.log").read_bytes()
    found: list[Batch] = []
    while data:
        size = 12 + struct.unpack_from(">i", data, 8)[0]
        found.append(Batch(data[:size]))
        data = data[size:]
    return found


async def _fetch_for_ever(consumer: Consumer) -> None:
    while True:
        await consumer.fetch(10, 1)


def _problems(board: Board) -> Callable[[], Awaitable[list[Problem]]]:
    async def current() -> list[Problem]:
        return board.current()

    return current
