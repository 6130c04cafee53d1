"""Ids of new instances, made by any process."""

import os
import random

from marty_msf.worker.saga.starts import prepare
from tests.unit.core.saga.definitions import ORDER

#: Of the text of an id: behind the time, which processes share.
RANDOM = slice(19, None)


def made() -> str:
    return prepare(ORDER, "order-7", {}).live.text


def made_by_a_fork() -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, made().encode())
        os._exit(0)
    os.close(writer)
    try:
        return os.read(reader, 100).decode()
    finally:
        os.close(reader)
        os.waitpid(pid, 0)


def test_forks_of_one_process_give_ids_of_their_own() -> None:
    ids = {it[RANDOM] for it in (made_by_a_fork(), made_by_a_fork(), made())}
    assert len(ids) == 3
    assert all(len(it) == 17 for it in ids)


def test_a_program_that_repeats_its_chances_does_not_repeat_its_ids() -> None:
    random.seed(0)
    first = made()
    random.seed(0)
    assert made()[RANDOM] != first[RANDOM]
