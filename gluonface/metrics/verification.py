"""Are two faces the same person? The ten-fold protocol of LFW, from similarities of pairs. NumPy only.

Huang, Ramesh, Berg and Learned-Miller, "Labeled Faces in the Wild", 2007, view 2: the threshold for a fold is chosen on
the other ones. Letters: N pairs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, InputError

__all__ = ["LfwPair", "Verification", "read_lfw_pairs", "verify_pairs"]


@dataclass(frozen=True)
class LfwPair:
    """Two photos, each (person, number), whether they show one person, and the fold they belong to, from 0."""

    a: tuple[str, int]
    b: tuple[str, int]
    same: bool
    fold: int


def read_lfw_pairs(path: str | os.PathLike) -> list[LfwPair]:
    """Pairs from a file in the format of LFW's ``pairs.txt``.

    The first line has the number of folds F and of pairs n; for each fold follow n pairs of one person (``name i j``)
    and n of two (``name i name j``).

    Raises
    ------
    DataError
        The file cannot be read or is not of that format; the message names file and line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    header = [word for _, row in rows[:1] for word in row]
    if len(header) != 2 or not all(word.isdigit() and int(word) for word in header):
        raise DataError(f'{path}, line 1: expected the numbers of folds and of pairs ("10 300"), got {header}')
    folds, count = map(int, header)
    if len(rows) - 1 != 2 * folds * count:
        raise DataError(f"{path}: expected {folds} folds of 2 x {count} pairs, got {len(rows) - 1} lines of pairs")
    pairs = []
    for i, (number, row) in enumerate(rows[1:]):
        same = i % (2 * count) < count
        numbers = row[1::2] if not same else row[1:]
        if len(row) != (3 if same else 4) or not all(word.isdigit() for word in numbers):
            wanted = '"name i j", a pair of one person' if same else '"name i name j", a pair of two persons'
            raise DataError(f"{path}, line {number}: expected {wanted}, got {' '.join(row)!r}")
        first, second = (row[0], int(numbers[0])), (row[0] if same else row[2], int(numbers[1]))
        pairs.append(LfwPair(first, second, same, i // (2 * count)))
    return pairs


@dataclass(frozen=True)
class Verification:
    """What `verify_pairs` found.

    Attributes
    ----------
    accuracy : float
        Mean over the folds of the share of pairs told rightly.
    std : float
        Standard deviation over the folds (divided by F, as papers print it).
    standard_error : float
        Of the mean, as LFW's authors ask for: the deviation divided by F - 1, over the root of F.
    fold_accuracies, thresholds : tuple of float
        Of each fold.
    pairs, missed : int
        All pairs, and those among them without a similarity.
    """

    accuracy: float
    std: float
    standard_error: float
    fold_accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    pairs: int
    missed: int

    def to_dict(self) -> dict:
        """Plain numbers for JSON."""
        return {
            "accuracy": self.accuracy,
            "std": self.std,
            "standard_error": self.standard_error,
            "fold_accuracies": list(self.fold_accuracies),
            "thresholds": list(self.thresholds),
            "pairs": self.pairs,
            "missed": self.missed,
        }


def verify_pairs(similarities: np.ndarray, same: np.ndarray, folds: np.ndarray) -> Verification:
    """Accuracy over folds.

    For each fold the threshold is taken that tells most pairs of the other folds rightly, half way between two
    similarities that occur there; of equally good ones the lowest. A pair is called one person where its similarity is
    at least the threshold.

    Parameters
    ----------
    similarities : ndarray (N,)
        Higher is more alike. NaN where a face was not found: such a pair counts as told wrongly, and chooses no
        threshold.
    same : ndarray of bool (N,)
    folds : ndarray of int (N,)
        Which fold a pair belongs to; any numbers.

    Raises
    ------
    InputError
        Arrays differ in length, there is one fold only, or a fold's others have no similarity.
    """
    similarities, same, folds = np.asarray(similarities, np.float64), np.asarray(same, bool), np.asarray(folds)
    if not similarities.shape == same.shape == folds.shape or similarities.ndim != 1:
        raise InputError(
            "expected similarities, same and folds of one length (N,), got shapes "
            f"{similarities.shape}, {same.shape} and {folds.shape}"
        )
    names = np.unique(folds)
    if len(names) < 2:
        raise InputError(f"expected at least two folds, got {len(names)}: each takes its threshold from the others")
    known = np.isfinite(similarities)
    accuracies, thresholds = [], []
    for name in names:
        rest = known & (folds != name)
        if not rest.any():
            raise InputError(f"no pair outside fold {name} has a similarity to choose a threshold by")
        thresholds.append(best_threshold(similarities[rest], same[rest]))
        here = folds == name
        right = known[here] & ((similarities[here] >= thresholds[-1]) == same[here])
        accuracies.append(float(right.mean()))
    return Verification(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        standard_error=float(np.std(accuracies, ddof=1) / math.sqrt(len(names))),
        fold_accuracies=tuple(accuracies),
        thresholds=tuple(thresholds),
        pairs=len(same),
        missed=int((~known).sum()),
    )


def best_threshold(similarities: np.ndarray, same: np.ndarray) -> float:
    """The threshold that tells most pairs rightly, see `verify_pairs`.

    Where all pairs are best called one person, it is their least similarity; where none, just above the greatest.
    """
    levels, place = np.unique(similarities, return_inverse=True)
    place = place.reshape(-1)
    ones = np.bincount(place, weights=same, minlength=len(levels))
    others = np.bincount(place, weights=~same, minlength=len(levels))
    # Right with the threshold below level k: different ones below it, equal ones from it on.
    right = np.concatenate([[0], np.cumsum(others)]) + np.concatenate([np.cumsum(ones[::-1])[::-1], [0]])
    best = int(right.argmax())
    if best == 0:
        return float(levels[0])
    if best == len(levels):
        return float(np.nextafter(levels[-1], np.inf))
    return float((levels[best - 1] + levels[best]) / 2)
