"""Processes: started, watched, ended."""

import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

# Longer than anything takes that is not a fault.
PATIENCE = 60.0


class Process:
    """A child with its output in a file. CPU time and memory are the kernel's own figures."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.output = tempfile.TemporaryFile("w+")
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def cpu(self) -> float:
        """Seconds of all its threads that are alive, to the nanosecond."""
        spent = 0
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def memory(self) -> tuple[float, float]:
        """MiB resident: now, and at most so far."""
        fields = {}
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = value
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def check(self) -> None:
        if self.child.poll() is not None:
            raise SystemExit(f"{self.child.args} ended early:\n{self.text()[-4000:]}")

    def end(self) -> tuple[float, resource.struct_rusage]:
        """SIGTERM. Seconds until it has exited, and what it used in all."""
        self.check()
        asked = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self.child.pid, 0)
        took = time.monotonic() - asked
        self.child.returncode = os.waitstatus_to_exitcode(status)
        if self.child.returncode != 0:
            raise SystemExit(f"{self.child.args} exited {self.child.returncode}:\n{self.text()[-4000:]}")
        return took, usage

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.returncode is None:
            self.child.kill()
            self.child.wait()
        self.output.close()


def wait_for(condition, what: str, patience: float = PATIENCE, pause: float = 0.01):
    """What the condition answers, once it answers something."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"never: {what}")
        time.sleep(pause)
    return found
