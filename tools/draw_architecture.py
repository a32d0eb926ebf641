"""Draw docs/images/architecture.svg from the imports that the code has.

Run it in the project's environment: ``python tools/draw_architecture.py``. A box is a package or
module, on the floor that the layers contract of setup.cfg gives it; an arrow says "imports".
Arrows that follow from others (A to C where A to B to C) are left out, and so are the arrows
among the modules of the ground, which everything stands on.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, BOX, FLOOR = 960, 54, 92

GROUND = ("disk", "folders", "locks", "records", "progress", "errors", "plugins", "protocols")
SAYS = {
    "napari_flowrvs": "the dock: a folder a page, presenter beside panel",
    "cli": "the command line: one file a verb",
    "demo": "flowrvs demo",
    "training": "decoder, flow, scratch",
    "evaluation": "J, F, predictions, reports",
    "inference": "requests, windows, runs, clusters",
    "pipelines": "FlowRVSPipeline",
    "data": "one file a dataset format",
    "editing": "spread, clean, pick, review",
    "store": "the project on disk, undo",
    "masks": "RLE, optical flow, clean-up",
    "video": "frames, exactly",
    "models": "VAE, text, presets",
    "checkpoints": "fetch, convert, verify",
    "ground": "whole files, frozen records, progress and cancel, one tree of errors",
}


def floors() -> list[list[str]]:
    """Return the names on every floor, the lowest first."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["importlinter:contract:layers"]["layers"].split("\n")
    rows = [[name.strip() for name in line.replace("|", ":").split(":")] for line in lines if line]
    rows = [row for row in reversed(rows) if not set(row) <= set(GROUND)]
    rows[-1].insert(0, "napari_flowrvs")
    return [["ground"], *rows]


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Return which of the boxes imports which, without what follows from the rest."""
    graph = grimp.build_graph("flowrvs", "napari_flowrvs")

    def box(module: str) -> str:
        root, *inner = module.split(".")
        name = root if root == "napari_flowrvs" or not inner else inner[0]
        return "ground" if name in GROUND else name

    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = box(module), box(imported)
            if pair[0] != pair[1] and set(pair) <= set(names):
                found.add(pair)
    below: dict[str, set[str]] = {name: set() for name in names}

    def reach(name: str) -> set[str]:
        if not below[name]:
            for start, end in found:
                if start == name:
                    below[name] |= {end} | reach(end)
        return below[name]

    def follows(start: str, end: str) -> bool:
        return any(a == start and b != end and end in reach(b) for a, b in found)

    return {pair for pair in found if not follows(*pair)}


def draw() -> str:
    """Return the picture as SVG."""
    rows = floors()
    names = [name for row in rows for name in row]
    height = FLOOR * len(rows) + 24
    places: dict[str, tuple[float, float, float]] = {}  # left, top, width
    for level, row in enumerate(rows):
        top = height - 12 - (level + 1) * FLOOR + (FLOOR - BOX) / 2
        room = WIDTH / len(row)
        width = WIDTH - 24 if row == ["ground"] else min(room - 24, 300)
        for i, name in enumerate(row):
            places[name] = (room * i + (room - width) / 2, top, width)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#7a8794"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for start, end in sorted(imports(names)):
        (x, y, w), (u, v, s) = places[start], places[end]
        x1, y1, y2 = x + w / 2, y + BOX, v
        x2 = x1 if end == "ground" else u + s / 2
        bend = (y2 - y1) / 2
        parts.append(
            f'<path d="M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
            f'{x2:.0f} {y2:.0f}" fill="none" stroke="#7a8794" marker-end="url(#tip)"/>'
        )
    for name, (x, y, w) in places.items():
        fill = "#e8f1e4" if name == "napari_flowrvs" else "#e6eef7"
        title = " · ".join(GROUND) if name == "ground" else name
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{BOX}" rx="6" fill="{fill}" '
            'stroke="#51606e"/>'
            f'<text x="{x + w / 2:.0f}" y="{y + 22:.0f}" font-size="15" fill="#1d2731">'
            f"{escape(title)}</text>"
            f'<text x="{x + w / 2:.0f}" y="{y + 41:.0f}" font-size="11" fill="#51606e">'
            f"{escape(SAYS.get(name, ''))}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(draw(), "utf-8")
    print(f"drew {TARGET.relative_to(ROOT)}")
