"""An embedded AWS, a configuration, and the daemon: each a process of its own."""

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

from .process import Process, wait_for
from .sqs import Queue

TARGET = """
[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "benches",
    "AWS_SECRET_ACCESS_KEY": "benches",
    "AWS_REGION": "ap-northeast-1",
    "AWS_DEFAULT_REGION": "ap-northeast-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

EXPORT = re.compile(r"^export ([A-Z_]+)=(.*)$", re.MULTILINE)


def environment(endpoint: str) -> dict[str, str]:
    return CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}


class Directory:
    """Where a daemon's configuration and its ledger are."""

    def __init__(self, targets: str = TARGET, max_in_flight: int = 64) -> None:
        self.kept = tempfile.TemporaryDirectory(prefix="stagesweep-benches-")
        self.path = Path(self.kept.name)
        self.config = self.path / "config.toml"
        self.config.write_text(
            f"""
[queue]
url = "https://sqs.ap-northeast-1.amazonaws.com/123456789012/stagesweep"
max_in_flight = {max_in_flight}

[ledger]
path = "{self.path}/ledger.db"

[telemetry]
metrics_interval = "1h"
{targets}"""
        )

    def run(
        self, binary: str, endpoint: str, queue_url: str, cpu: int | None = None
    ) -> Process:
        command = [binary, "run", "--config", str(self.config)]
        return Process(
            pinned(command, cpu),
            environment(endpoint) | {"STAGESWEEP__QUEUE__URL": queue_url},
        )

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        self.kept.cleanup()


class Server:
    """`rehearse --serve`, with rejections on its queue."""

    def __init__(
        self,
        binary: str,
        directory: Directory,
        services: int,
        propagation: str,
        latency: str = "0ms",
        cpu: int | None = None,
    ) -> None:
        command = [binary, "rehearse", "--serve", "127.0.0.1:0", "--config", str(directory.config)]
        command += ["--services", str(services), "--propagation", propagation, "--latency", latency]
        self.process = Process(pinned(command, cpu), {})
        # The last line that it prints; a larger world takes a while to make.
        last = "export STAGESWEEP__LEDGER"
        up = lambda: self.process.check() or last in self.process.text()
        wait_for(up, "the server is up")
        exports = dict(EXPORT.findall(self.process.text()))
        self.endpoint = exports["AWS_ENDPOINT_URL"]
        self.queue_url = exports["STAGESWEEP__QUEUE__URL"]
        self.queue = Queue(self.queue_url)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__()


def pinned(command: list[str], cpu: int | None) -> list[str]:
    return command if cpu is None else ["taskset", "--cpu-list", str(cpu), *command]


def metrics(log: str) -> tuple[Counter, Counter]:
    """What the daemon counted, from the metrics in its log: in all, and calls by their operation."""
    counted, calls = Counter(), Counter()
    for line in log.splitlines():
        if '"_aws"' not in line:
            continue
        values = json.loads(line)
        if "Operation" in values:
            calls[values["Operation"]] += values.get("ApiCalls", 0)
        elif "Reason" not in values:
            counted.update({name: value for name, value in values.items() if isinstance(value, int)})
    return counted, calls
