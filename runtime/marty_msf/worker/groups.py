"""Errors that come out of asyncio.TaskGroup."""

from marty_msf.core.errors import MartyError


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that names its cause best: what nobody expected before what we know, then the first.

    A bug must not hide behind a lost connection that it caused.
    """
    leaves = list(_leaves(group))
    unexpected = [error for error in leaves if not isinstance(error, MartyError)]
    return (unexpected or leaves)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
