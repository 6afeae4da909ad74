"""What the scripts ``train/prepare_<set>.py`` of the landmark sets share. No MXNet here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import GluonFaceError
from .base import FaceSample
from .jsonl import write_jsonl
from .landmark_sets import count_faces

__all__ = ["Prepared", "describe", "prepare", "prepare_parser"]


@dataclass
class Prepared:
    """What came of preparing a set.

    Parameters
    ----------
    written : list of str
        One line for each file.
    problems : list of str
        Why no annotation file was written; empty when all went well.
    """

    written: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.problems:
            return "\n".join([*self.problems, f"{len(self.problems)} problems; no annotations were written"])
        return "\n".join(self.written)


def prepare_parser(doc: str | None, root: str, splits: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line of such a script: root, --out, --partial and, when the set has several, --splits."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: data)")
    parser.add_argument("--partial", action="store_true", help="accept a part of the photos: use what is there")
    if splits:
        parser.add_argument(
            "--splits", nargs="+", choices=splits, default=list(splits), metavar="SPLIT", help=f"of {', '.join(splits)}"
        )
    return parser


def describe(samples: Sequence[FaceSample]) -> str:
    """Counts of one split."""
    return f"{len(samples):,} photos, {count_faces(samples):,} faces"


def prepare(
    read: Callable[[str], list[FaceSample]],
    splits: Sequence[str],
    out: Path,
    prefix: str,
    expected: Mapping[str, int],
) -> Prepared:
    """Read splits and write each as ``<out>/<prefix>_<split>.jsonl``; all of them or, at any problem, none.

    Parameters
    ----------
    read : function of a split's name to samples
        Its `GluonFaceError` is a problem of that split.
    splits : sequence of str
    out : Path
        Made when it is missing.
    prefix : str
    expected : mapping of str to int
        Faces that a split must have; where it names none, any number will do.
    """
    found, prepared = {}, Prepared()
    for split in splits:
        try:
            found[split] = read(split)
        except GluonFaceError as error:
            prepared.problems.append(str(error))
            continue
        faces = count_faces(found[split])
        if faces != expected.get(split, faces):
            prepared.problems.append(
                f"{split}: {faces:,} faces, the official split has {expected[split]:,}; --partial accepts that"
            )
    if prepared.problems:
        return prepared
    out.mkdir(parents=True, exist_ok=True)
    for split, samples in found.items():
        path = out / f"{prefix}_{split}.jsonl"
        write_jsonl(path, samples)
        prepared.written.append(f"{path}: {describe(samples)}")
    return prepared
