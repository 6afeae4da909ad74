"""Find faces, their landmarks and head pose in a real photo and in a crowd made of it, with the weights that ship:
``make demo``.

    python benchmarks/demo.py [--model NAME] [--landmarks NAME] [--pose NAME] [--out out/demo] [--readme]

Writes astronaut.jpg and crowd.jpg with the faces drawn, landmarks.jpg and pose.jpg with the astronaut's face at large,
and lists the faces. Takes some ten seconds; needs the extras cpu and demo. Exit status 1 when the face in the photo is
not found. The crowd is a toy to look at, not a measurement: for those see benchmarks/eval_detection.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import zoomed
from crowd import FACE_BOX, Crowd, astronaut, compose_crowd

from gluonface import FaceAnalyzer, Faces
from gluonface.image import save_image
from gluonface.viz import draw_faces

ROOT = Path(__file__).resolve().parents[1]
#: The landmark net of the demo.
LANDMARKS = "heatmap_mobilenetv2_1.0_sdd_fc26"
#: The net of the demo that gives head pose.
POSE = "mos_mobilenet0.25_fc26"
SIZE_CLASSES = ((16, 32), (32, 64), (64, 128), (128, 256))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="detector (see `gluonface models`; default: that of FaceAnalyzer)")
    parser.add_argument("--landmarks", default=LANDMARKS, help="landmark net (default: %(default)s)")
    parser.add_argument("--pose", default=POSE, help="net that gives head pose (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo", help="folder for the pictures (out/demo)")
    parser.add_argument("--readme", action="store_true", help="write the README's pictures, docs/img/, too")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    analyzer = FaceAnalyzer(args.model, landmarks=args.landmarks)
    # The crowd as it is: its smallest faces are 16 pixels high, too small at the size a model usually looks at.
    as_it_is = FaceAnalyzer(analyzer.net, landmarks=analyzer.landmarks, size=None)
    photo, crowd = astronaut(), compose_crowd()
    pictures = {"astronaut.jpg": photo, "crowd.jpg": crowd.image}
    results = {"astronaut.jpg": analyzer(photo), "crowd.jpg": as_it_is(crowd.image)}

    print(f"model {analyzer.detector_name}, score at least {analyzer.score_thresh:g}")
    print(f"landmarks {analyzer.landmarks.facts.name}, {analyzer.landmarks.facts.scheme} points a face")
    for name, faces in results.items():
        drawn = draw_faces(pictures[name], faces)
        save_image(args.out / name, drawn)
        print(f"\n{args.out / name}: {len(faces)} {'face' if len(faces) == 1 else 'faces'}")
        print(table(faces))
        if args.readme and name == "crowd.jpg":
            save_image(ROOT / "docs" / "img" / name, drawn, quality=82)

    if len(results["astronaut.jpg"]):
        portrait = close_up(photo, results["astronaut.jpg"].largest())
        save_image(args.out / "landmarks.jpg", portrait)
        if args.readme:
            save_image(ROOT / "docs" / "img" / "landmarks.jpg", portrait, quality=85)

    posed = FaceAnalyzer(args.pose)(photo).largest()
    for yaw, pitch, roll in () if posed.pose is None else posed.pose:
        print(f"\npose of the face by {args.pose}: yaw {yaw:+.0f}°, pitch {pitch:+.0f}°, roll {roll:+.0f}°")
        portrait = close_up(photo, posed)
        save_image(args.out / "pose.jpg", portrait)
        if args.readme:
            save_image(ROOT / "docs" / "img" / "pose.jpg", portrait, quality=85)

    print("\n" + summary(crowd, results["crowd.jpg"]))
    there = Crowd(photo, FACE_BOX[None].astype(np.float32), np.ones(1), np.zeros(1))
    if not there.found_in(results["astronaut.jpg"]).all():
        print("the face in the photo was not found", file=sys.stderr)
        return 1
    return 0


def close_up(photo: np.ndarray, face: Faces, size: int = 480) -> np.ndarray:
    """One face with its landmarks, at large."""
    x1, y1, x2, y2 = face.boxes[0]
    scale = size / (1.5 * max(x2 - x1, y2 - y1))
    return draw_faces(*zoomed(photo, face, np.array([x1 + x2, y1 + y2]) / 2, scale, size), scores=False)


def table(faces: Faces) -> str:
    """One line a face: score, box, height, and by how much it is turned, from the line between the eyes."""
    lines = ["    #  score      x1      y1      x2      y2  height  turned"]
    for i, face in enumerate(faces):
        x1, y1, x2, y2 = face.box
        turned = "      -"
        if face.landmarks5 is not None:
            across, down = face.landmarks5[0, 1] - face.landmarks5[0, 0]
            turned = f"{np.degrees(np.arctan2(down, across)):+6.0f}°"
        lines.append(f"{i:5d}  {face.score:5.3f}{x1:8.1f}{y1:8.1f}{x2:8.1f}{y2:8.1f}{y2 - y1:8.1f} {turned}")
    return "\n".join(lines)


def summary(crowd: Crowd, faces: Faces) -> str:
    """How many of the faces put into the crowd were found, in all and by size and angle, and what else was found."""
    found = crowd.found_in(faces)
    upside_down = np.abs(crowd.degrees) > 120
    rows = [(f"{low} to {high} px", (crowd.heights >= low) & (crowd.heights < high)) for low, high in SIZE_CLASSES]
    rows += [("upright or leaning", ~upside_down), ("upside-down", upside_down)]
    lines = [
        f"found {found.sum()} of the {len(found)} faces in the crowd, and {len(faces) - found.sum()} that are none"
    ]
    lines += [f"  {name:20s}{found[rows].sum():3d} of {rows.sum():2d}" for name, rows in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
