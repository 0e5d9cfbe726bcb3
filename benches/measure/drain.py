"""A backlog of duplicates of finished jobs, drained by stagesweep and by others."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .process import Process, wait_for
from .setting import Directory, Server, environment, pinned

PEERS = Path(__file__).parent.parent / "peers"

# Finished jobs that the duplicates are of.
JOBS = 20

# Receives that others have under way. stagesweep, with 64 messages in flight, has up to 6.
SIDE_BY_SIDE = 6


@dataclass
class Drain:
    """One backlog, drained by one client."""

    rate: float
    # CPU time a message, in microseconds.
    client: float
    server: float


def drain(
    binary: str, server_binary: str, tools: Path, latency: str, messages: int, runs: int, log
) -> dict[str, list[Drain]]:
    """Every client in every run, on one server. The server has one core and the client another, so that
    neither's speed depends on what the other needs."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    with Directory() as directory, Server(
        server_binary, directory, JOBS, "10ms", latency, server_core
    ) as server:
        queue = server.queue
        rejections = queue.bodies()
        assert len(rejections) == JOBS, len(rejections)
        with directory.run(binary, server.endpoint, server.queue_url) as daemon:
            wait_for(lambda: daemon.check() or sum(queue.depth()) == 0, "the jobs are done")
            daemon.end()
        backlog = [rejections[number % JOBS] for number in range(messages)]

        others = environment(server.endpoint) | {"QUEUE_URL": server.queue_url}
        node = others | {"PEERS_MODULES": str(tools / "peers" / "package.json")}
        python = str(tools / "peers-python" / "bin" / "python")

        def peer(command: list[str], variables: dict[str, str]) -> Process:
            return Process(pinned(command, client_core), variables)

        clients = {
            "bare": lambda: peer([sys.executable, str(PEERS / "bare.py"), str(SIDE_BY_SIDE)], others),
            "stagesweep": lambda: directory.run(
                binary, server.endpoint, server.queue_url, client_core
            ),
        }
        for side_by_side in (1, SIDE_BY_SIDE):
            script = [str(PEERS / "sqs_consumer.mjs"), str(side_by_side)]
            name = f"sqs-consumer × {side_by_side}"
            clients[name] = lambda script=script: peer(["node", *script], node)
            loop = [str(PEERS / "boto3_loop.py"), str(side_by_side)]
            clients[f"boto3 × {side_by_side}"] = lambda loop=loop: peer([python, *loop], others)

        measured = {name: [] for name in clients}
        for run in range(runs):
            for name, start in clients.items():
                queue.send(backlog)
                result = one(server, start, messages)
                measured[name].append(result)
                log(f"run {run + 1}: {name}: {result.rate:.0f} messages/s")
        return measured


def one(server: Server, start, messages: int) -> Drain:
    queue = server.queue
    wait_for(lambda: queue.depth() == (messages, 0), "the backlog is there")
    with start() as client:
        wait_for(lambda: client.check() or queue.depth()[0] < messages, "a first receive", pause=0.001)
        began = time.monotonic()
        client_cpu, server_cpu = client.cpu(), server.process.cpu()
        wait_for(lambda: client.check() or sum(queue.depth()) == 0, "drained", 600)
        took = time.monotonic() - began
        client_cpu, server_cpu = client.cpu() - client_cpu, server.process.cpu() - server_cpu
        client.end()
    return Drain(
        rate=messages / took,
        client=client_cpu / messages * 1e6,
        server=server_cpu / messages * 1e6,
    )
