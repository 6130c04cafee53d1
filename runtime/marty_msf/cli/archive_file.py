"""The file of an archive: whole under its name or not there at all, and never in place of another one."""

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

import click

#: Contexts may hold what not everybody on this computer is to read.
_MODE: Final = 0o600


@contextmanager
def archive_file(name: str) -> Iterator[BinaryIO]:
    """Where lines go: `-` is stdout; a name that ends with .gz is compressed.

    Until the end it is called `NAME.part`. Raises click.ClickException when NAME or NAME.part exist or cannot be
    written; an error inside removes the part.
    """
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    final, part = Path(name), Path(f"{name}.part")
    if final.exists():
        raise click.ClickException(f"{final} exists: give another name, or move it away")
    try:
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
    except FileExistsError:
        raise click.ClickException(f"{part} exists: another archive writes it, or was ended: remove it then") from None
    except OSError as error:
        raise click.ClickException(f"{part} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as plain:
            if name.endswith(".gz"):
                with gzip.GzipFile(final.name[:-3], "wb", compresslevel=6, fileobj=plain) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield plain
            plain.flush()
            os.fsync(plain.fileno())
        # Unlike a rename, a link never takes the place of a file that came meanwhile.
        os.link(part, final)
    except FileExistsError:
        raise click.ClickException(f"{final} exists: give another name, or move it away") from None
    except OSError as error:
        raise click.ClickException(f"{part} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
