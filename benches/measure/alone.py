"""The daemon with nothing to do: start, idling, end; and the size of its binary."""

import time
from pathlib import Path

from .process import wait_for
from .setting import Directory
from .sqs import EmptyQueue

START = "start to first receive"
EXIT = "SIGTERM to exit, in a long poll"


def start_and_exit(binary: str, runs: int) -> dict[str, list[float]]:
    """Seconds from the start of the process to the arrival of its first receive, and from SIGTERM to
    its end. Each run begins with an empty directory: the ledger is made, too."""
    took = {START: [], EXIT: []}
    for _ in range(runs):
        with EmptyQueue() as queue, Directory() as directory:
            url = f"{queue.endpoint}/123456789012/stagesweep"
            with directory.run(binary, queue.endpoint, url) as daemon:
                first = wait_for(lambda: queue.first("ReceiveMessage"), "a receive", pause=0.001)
                took[START].append(first - daemon.began)
                took[EXIT].append(daemon.end()[0])
    return took


def idle(binary: str, seconds: float) -> dict[str, float]:
    """One daemon on an empty queue, at the default settings."""
    with EmptyQueue() as queue, Directory() as directory:
        url = f"{queue.endpoint}/123456789012/stagesweep"
        with directory.run(binary, queue.endpoint, url) as daemon:
            wait_for(lambda: queue.first("ReceiveMessage"), "a receive")
            time.sleep(2)
            cpu, called = daemon.cpu(), len(queue.calls)
            time.sleep(seconds)
            resident, peak = daemon.memory()
            return {
                "memory": resident,
                "peak": peak,
                "cpu": (daemon.cpu() - cpu) * 600 / seconds,
                "calls": (len(queue.calls) - called) * 3600 / seconds,
            }


def size(binary: str) -> float:
    """MiB."""
    return Path(binary).stat().st_size / 2**20
