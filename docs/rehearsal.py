"""Draws the output of a command as it stands on a terminal, as an SVG.

    target/debug/stagesweep rehearse --scenario crash \
        | python3 docs/rehearsal.py 'stagesweep rehearse --scenario crash' > docs/rehearsal.svg
"""

import html
import re
import sys

COLUMN, LINE, MARGIN, BAR = 7.8, 18, 16, 30
COLOURS = [
    (r"SIGKILL;", "#ff7b72"),
    (r"as it must\.$|job done", "#7ee787"),
    (r"waiting for", "#e3b341"),
]


def colour(line: str) -> str:
    fits = (colour for pattern, colour in COLOURS if re.search(pattern, line))
    return next(fits, "#c9d1d9")


def text(row: int, line: str, fill: str) -> str:
    y = BAR + MARGIN + LINE * row + 12
    return (
        f'<text x="{MARGIN}" y="{y}" fill="{fill}" xml:space="preserve"'
        f' textLength="{COLUMN * len(line):.1f}">{html.escape(line)}</text>'
    )


def draw(command: str, output: str) -> str:
    lines = output.rstrip("\n").split("\n")
    width = round(2 * MARGIN + COLUMN * max(map(len, lines)))
    height = BAR + 2 * MARGIN + LINE * (len(lines) + 1)
    rows = [text(0, f"$ {command}", "#79c0ff")]
    rows += [text(row, line, colour(line)) for row, line in enumerate(lines, 1) if line]
    dots = [
        f'<circle cx="{20 + 18 * at}" cy="{BAR // 2}" r="5" fill="{fill}"/>'
        for at, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">'
    )
    frame = f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117" stroke="#8b949e"/>'
    return "\n".join([head, f"<title>{html.escape(command)}</title>", frame, *dots, *rows, "</svg>", ""])


if __name__ == "__main__":
    sys.stdout.write(draw(sys.argv[1], sys.stdin.read()))
