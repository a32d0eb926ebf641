"""Prompt a clip, correct a frame as a person would, export, and read the split again.

    python examples/correct_and_export.py

Writes shapes.flowrvs and shapes-mevis/ here.
"""

from __future__ import annotations

import json
from pathlib import Path

import flowrvs
from flowrvs.data.export import export_projects
from flowrvs.data.synthetic import generate_clip
from flowrvs.masks import rle


def main() -> None:
    """Write a project and a MeViS split."""
    clip = generate_clip(7)
    text = clip.expressions[0].text
    video = flowrvs.open_video(clip.frames)
    with flowrvs.Project.create("shapes.flowrvs", video.info, overwrite=True) as project:
        for _ in flowrvs.segment_into(project, video, [text], flowrvs.load("tiny")):
            pass
        expression, found = project.add_prompt(text)  # the one that is there already
        labels = project.labels(found.layer)
        labels[3, 10:20, 10:40] = found.id  # paint on frame 3: it is a person's from now on
        print(text, "->", "provenance", project.provenance(found.id)[:6])
        result = export_projects([project], "shapes-mevis", videos=[video], overwrite=True)

    meta = json.loads((result.path / "meta_expressions.json").read_text())
    masks = json.loads((result.path / "mask_dict.json").read_text())
    [(name, entry)] = meta["videos"].items()
    anno_id = entry["expressions"][expression.exp_id]["anno_id"][0]
    frame = rle.decode(masks[str(anno_id)][3])
    print(
        f"{name}: {len(entry['frames'])} frames; painted pixels kept: {frame[10:20, 10:40].all()}"
    )
    print("Look at", Path("shapes-mevis", "train"))


if __name__ == "__main__":
    main()
