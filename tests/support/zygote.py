"""Starts Python processes without their imports: one process that has imported everything forks the others.

A test that kills a process in every gap of a pass starts hundreds; most of the time and the processor went into imports.
What is forked is a process of its own like any other: own pid, own environment, killed and stopped by signals.

`python -m tests.support.zygote SOCKET` serves until its standard input ends, then kills what it has started. A request is
one line of JSON, {"arguments", "environment", "log"}; the answer is the pid, and when the process has ended its exit
code (negative: the signal that ended it), a line each.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import threading
import traceback
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Final, NoReturn

from kubernetes.config import kube_config

#: What the processes of tests import; nothing that starts a thread, or is run as a program itself.
IMPORTS: Final = (
    "aiohttp.web",
    "aiokafka",
    "asyncpg",
    "kopf",
    "uvloop",
    "marty_msf.cli.run",
    "marty_msf.cli.dlq",
    "marty_msf.cli.saga",
    "marty_msf.worker.roles",
    "marty_msf.worker.service",
    "marty_msf.patterns.outbox",
    "marty_msf.patterns.saga",
    "tests.support.effects",
)


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    # The collector of a child must not write to what it shares with the others.
    gc.freeze()
    with socket(AF_UNIX, SOCK_STREAM) as server:
        server.bind(f"{sys.argv[1]}.new")
        server.listen(64)
        # Whoever sees it may connect.
        Path(f"{sys.argv[1]}.new").rename(sys.argv[1])
        _serve(server)


def _serve(server: socket) -> None:
    children: dict[int, socket] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    for source in (server, woken, sys.stdin):
        selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is server:
                connection, _ = server.accept()
                request = json.loads(connection.makefile().readline())
                if (pid := os.fork()) == 0:
                    _become(request)
                children[pid] = connection
                _tell(connection, pid)
            elif key.fd == woken:
                os.read(woken, 1024)
                _reap(children)
            else:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return


def _reap(children: dict[int, socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = children.pop(pid)
        _tell(connection, os.waitstatus_to_exitcode(status))
        connection.close()


def _tell(connection: socket, number: int) -> None:
    try:
        connection.sendall(b"%d\n" % number)
    except OSError:
        return  # who asked is gone


def _become(request: dict[str, Any]) -> NoReturn:
    """The process that was asked for, as `python -m MODULE ARGUMENTS` would be."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        os.closerange(3, 4096)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        # It looked at the environment when it was imported.
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG", "~/.kube/config")
        sys.argv = request["arguments"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that a program may leave
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
