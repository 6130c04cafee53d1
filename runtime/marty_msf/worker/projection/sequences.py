"""The highest sequences applied per key, in memory for the partitions we own and in Postgres for all time."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

import asyncpg

from marty_msf.core.projection.intake import Message, Stream
from marty_msf.store import projection
from marty_msf.store.database import translate

Partition = tuple[str, int]

#: Keys remembered per process, about 200 bytes each; what is forgotten is loaded again when its key comes back.
KEYS_IN_MEMORY: Final = 250_000
#: Never forget what a batch that is not committed yet may have raised: two batches are in work at most.
_BATCHES_KEPT: Final = 4

_UNSEEN: Final = -1
_NOTHING: Final[Mapping[bytes, int]] = {}


class Sequences:
    """A cache of `marty.projection_key`. Valid while the leases' epochs stand; `clear` after a failed transaction."""

    def __init__(self, pool: asyncpg.Pool, scope: str, batch_size: int) -> None:
        self._pool = pool
        self._scope = scope
        self._least_kept = _BATCHES_KEPT * batch_size
        self._epochs: dict[Partition, int] = {}
        self._numbers: dict[Stream, int] = {}
        self._highest: dict[Stream, dict[bytes, int]] = {}

    async def known(
        self, records: Iterable[tuple[Message, Stream | None, int]], epochs: Mapping[Partition, int]
    ) -> Mapping[Stream, Mapping[bytes, int]]:
        """The highest sequence of every key among the records; loads those not in memory with one query."""
        self._follow(epochs)
        missing: dict[Stream, set[bytes]] = {}
        for record, stream, _ in records:
            if stream is not None and (record.key or b"") not in self._highest.get(stream, _NOTHING):
                missing.setdefault(stream, set()).add(record.key or b"")
        if missing:
            await self._load(missing)
        return self._highest

    def remember(self, risen: Mapping[Stream, Mapping[bytes, int]]) -> None:
        """What a batch raised, before its transaction: the next batch is read meanwhile."""
        for stream, sequences in risen.items():
            highest = self._highest[stream]
            for key, sequence in sequences.items():
                # Behind all others: the front is what was not used for longest.
                highest.pop(key, None)
                highest[key] = sequence
            limit = max(KEYS_IN_MEMORY // len(self._highest), self._least_kept)
            for key in list(islice(highest, max(len(highest) - limit, 0))):
                del highest[key]

    def numbered(self, risen: Mapping[Stream, Mapping[bytes, int]]) -> Mapping[int, Mapping[bytes, int]]:
        """The same, as stored."""
        return {self._numbers[stream]: sequences for stream, sequences in risen.items()}

    def clear(self) -> None:
        """Forget everything: what was remembered may not have been committed."""
        self._epochs.clear()
        self._highest.clear()

    def _follow(self, epochs: Mapping[Partition, int]) -> None:
        """Another owner may have written while a partition was not ours."""
        for partition, epoch in epochs.items():
            if self._epochs.get(partition) != epoch:
                self._epochs[partition] = epoch
                for stream in [stream for stream in self._highest if stream[:2] == partition]:
                    del self._highest[stream]

    async def _load(self, missing: Mapping[Stream, set[bytes]]) -> None:
        with translate():
            async with self._pool.acquire() as conn, conn.transaction():
                await projection.prefer_indexes(conn)
                if unnumbered := missing.keys() - self._numbers.keys():
                    self._numbers.update(await projection.open_streams(conn, self._scope, unnumbered))
                asked = [(self._numbers[stream], key) for stream, keys in missing.items() for key in keys]
                found = await projection.sequences(conn, asked)
        for stream, keys in missing.items():
            number, highest = self._numbers[stream], self._highest.setdefault(stream, {})
            for key in keys:
                highest[key] = found.get((number, key), _UNSEEN)
