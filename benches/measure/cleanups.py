"""Whole cleanups: how long, how many calls, how much memory and CPU."""

import math
import time
from dataclasses import dataclass

from .process import wait_for
from .setting import TARGET, Directory, Server, metrics

# Staging distributions that CloudFront allows an account.
IN_AN_ACCOUNT = 20

# The account of the queue.
OWN_ACCOUNT = 123456789012

STATUS_CALLS = ("GetDistribution", "ListDistributions")


@dataclass
class Cleanups:
    """So many cleanups that were asked for at once."""

    jobs: int
    propagation: float
    # Seconds from the first receive to the last message deleted.
    wall: float
    cpu: float
    peak: float
    calls: int
    status_calls: int

    @property
    def overhead(self) -> float:
        return self.wall - 2 * self.propagation


def targets(accounts: int) -> str:
    """One account, that of the queue, or so many others, each by its role."""
    if accounts == 1:
        return TARGET
    numbers = [OWN_ACCOUNT + 1 + number for number in range(accounts)]
    allowed = ", ".join(f'"{number}"' for number in numbers)
    entries = []
    for number in numbers:
        arn = f"arn:aws:codepipeline:ap-northeast-1:{number}:{{service}}-frontend-pipeline"
        role = f'role_arn = "arn:aws:iam::{number}:role/stagesweep"\n'
        entries.append(TARGET.replace("{service}-frontend-pipeline", arn) + role)
    return f"\n[events]\nallowed_accounts = [{allowed}]\n" + "".join(entries)


def cleanups(binary: str, server_binary: str, jobs: int, propagation: float) -> Cleanups:
    """`jobs` cleanups at once, twenty in an account."""
    accounts = math.ceil(jobs / IN_AN_ACCOUNT)
    services = math.ceil(jobs / accounts)
    with (
        Directory(targets(accounts), max_in_flight=max(jobs, 64)) as directory,
        Server(server_binary, directory, services, f"{round(propagation * 1000)}ms") as server,
    ):
        queue = server.queue
        wait_for(lambda: sum(queue.depth()) == jobs, f"{jobs} rejections on the queue")
        with directory.run(binary, server.endpoint, server.queue_url) as daemon:
            wait_for(lambda: queue.depth()[1], "a receive", pause=0.002)
            began = time.monotonic()
            patience = 3 * propagation + 60
            time.sleep(2 * propagation)
            wait_for(lambda: daemon.check() or sum(queue.depth()) == 0, "all settled", patience, 0.02)
            wall = time.monotonic() - began
            peak = daemon.memory()[1]
            _, usage = daemon.end()
            log = daemon.text()
    counted, calls = metrics(log)
    if counted["CleanupsSucceeded"] != jobs:
        raise SystemExit(f"not {jobs} cleanups: {counted}\n{log[-4000:]}")
    return Cleanups(
        jobs=jobs,
        propagation=propagation,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=peak,
        calls=sum(calls.values()),
        status_calls=sum(calls[name] for name in STATUS_CALLS),
    )
