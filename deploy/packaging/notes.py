"""Prints what CHANGELOG.md says of a version: the notes of its release.

usage: notes.py VERSION; fails where the page has no such version, or says nothing of it
"""

import pathlib
import re
import sys

CHANGELOG = pathlib.Path(__file__).resolve().parents[2] / "CHANGELOG.md"


def notes(text, version):
    """What stands under the version's heading, or None."""
    parts = re.split(r"^## \[([^\]]+)\].*\n", text, flags=re.M)
    of = dict(zip(parts[1::2], parts[2::2]))
    # Definitions of links at the end of the page belong to no version.
    said = re.sub(r"^\[[^\]]+\]: \S+$", "", of.get(version, ""), flags=re.M).strip()
    return said or None


def main(version):
    said = notes(CHANGELOG.read_text(), version)
    if said is None:
        sys.exit(f"CHANGELOG.md says nothing under ## [{version}]: move there what stands under ## [Unreleased]")
    print(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
