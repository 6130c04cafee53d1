"""Who owns the partitions of a topic: leases in Postgres, a lane for each partition."""

import asyncio
from collections.abc import Mapping, Sequence

from marty_msf.worker.groups import TaskGroup
from marty_msf.worker.kafka_partitions import Partitions
from marty_msf.worker.ownership import LaneOwner
from marty_msf.worker.role import Context


class TopicOwner:
    """Owns the partitions of one topic: the lanes of the scope `<role>:<resource>#<topic>`."""

    def __init__(
        self,
        partitions: Partitions,
        context: Context,
        scope: str,
        topic: str,
        lanes_of_topic: Sequence[int],
        tasks: TaskGroup,
    ) -> None:
        self._partitions = partitions
        self._topic = topic
        self.lanes_of_topic = lanes_of_topic
        self.stop = asyncio.Event()
        self.lanes = LaneOwner(context.pool, f"{scope}#{topic}", context.holder, lanes_of_topic, self)
        self.task = tasks.create_task(self.lanes.run(self.stop))

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """These partitions are ours under new epochs."""
        self._partitions.gained({(self._topic, lane): epoch for lane, epoch in epochs.items()})

    async def drain(self, lanes: Sequence[int]) -> None:
        """Give these partitions up; returns once no batch in work has records of them."""
        partitions = [(self._topic, lane) for lane in lanes]
        self._partitions.dropped(partitions)
        await self._partitions.finished(partitions)

    def dropped(self, lanes: Sequence[int]) -> None:
        """These partitions have another owner already."""
        self._partitions.dropped([(self._topic, lane) for lane in lanes])
