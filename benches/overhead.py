#!/usr/bin/env python3
"""Measures what a cleanup takes above its lower bound, two propagations in sequence.

Runs `stagesweep rehearse` as a whole process, over loopback, for each propagation time, and prints a
Markdown table. Usage:

    cargo build --release --locked
    benches/overhead.py [--runs N] [BINARY]
"""

import argparse
import re
import statistics
import subprocess
import sys

# Propagation in seconds, and the most that a cleanup may take, in seconds.
BARS = [(5, 2 * 5 + 1), (30, 2 * 30 * 1.04)]

DELETED = re.compile(r"^\s*([0-9.]+) s  \S+\s+message deleted$", re.MULTILINE)
CALLS = re.compile(r"^\s*([0-9]+)  GetDistribution$", re.MULTILINE)


def rehearse(binary: str, propagation: int) -> tuple[float, int]:
    """Seconds from the message sent to the message deleted, and calls of GetDistribution."""
    command = [binary, "rehearse", "--propagation", f"{propagation}s"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20 * propagation)
    found, calls = DELETED.search(run.stdout), CALLS.search(run.stdout)
    if run.returncode != 0 or not found or not calls:
        sys.exit(f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}")
    return float(found[1]), int(calls[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("binary", nargs="?", default="target/release/stagesweep")
    arguments = parser.parse_args()

    print("| P | lower bound 2 P | median | worst | worst / 2 P | bar | GetDistribution calls |")
    print("|---|---|---|---|---|---|---|")
    missed = False
    for propagation, bar in BARS:
        runs = [rehearse(arguments.binary, propagation) for _ in range(arguments.runs)]
        times = [seconds for seconds, _ in runs]
        calls = statistics.median(calls for _, calls in runs)
        worst = max(times)
        missed |= worst > bar
        print(
            f"| {propagation} s | {2 * propagation} s | {statistics.median(times):.2f} s "
            f"| {worst:.2f} s | {worst / (2 * propagation):.3f} | ≤ {bar:g} s | {calls:g} |",
            flush=True,
        )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
