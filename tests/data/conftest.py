"""Drawn photos: a grey canvas with one dot of its own colour for each point of a face."""

import numpy as np
import pytest

from gluonface.data.base import FaceLabels, FaceSample
from gluonface.data.jsonl import write_jsonl
from gluonface.image import save_image

RED, GREEN, BLUE = range(3)


def paint_dot(image: np.ndarray, xy, channel: int, radius: float = 3.0) -> None:
    """A soft disc round a continuous point, in one channel."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    cover = np.clip(radius + 0.5 - np.hypot(x - xy[0], y - xy[1]), 0, 1)
    image[:, :, channel] = np.maximum(image[:, :, channel], np.round(255 * cover)).astype(np.uint8)


def find_dot(image: np.ndarray, channel: int) -> np.ndarray:
    """Where that disc is: the centroid of the channel, in continuous pixels."""
    weight = image[:, :, channel].astype(float)
    weight[weight < 60] = 0
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


class Dots:
    """One face whose left eye is a red dot, right eye a green one and nose a blue one."""

    size_hw = (150, 210)

    def __init__(self):
        self.eye_left, self.eye_right, self.nose = (70.3, 61.8), (101.6, 66.1), (84.0, 80.5)
        self.image = np.zeros((*self.size_hw, 3), np.uint8)
        for channel, point in enumerate((self.eye_left, self.eye_right, self.nose)):
            paint_dot(self.image, point, channel)
        points = [self.eye_left, self.eye_right, self.nose, (74.0, 99.0), (99.0, 101.0)]
        self.labels = FaceLabels(
            boxes=np.array([[56, 40, 116, 115], [10, 100, 40, 140]]),
            ignore=np.array([False, True]),
            landmarks5=np.array([points, np.full((5, 2), np.nan)]),
            pose=np.array([[20.0, -8.0, 7.0], [np.nan] * 3]),
        )

    find = staticmethod(find_dot)

    @staticmethod
    def error(image: np.ndarray, labels: FaceLabels, mirrored: bool = False) -> float:
        """Largest distance between a point of face 0 and the dot that was painted there, in pixels."""
        red, green = (1, 0) if mirrored else (0, 1)
        found = np.array([find_dot(image, RED), find_dot(image, GREEN), find_dot(image, BLUE)])
        said = labels.landmarks5[0][[red, green, 2]]
        return float(np.hypot(*(found - said).T).max())


@pytest.fixture
def dots() -> Dots:
    return Dots()


@pytest.fixture
def photo_folder(tmp_path, rng):
    """A JSON-lines file with eight small photos of three sources beside their images folder."""
    samples = []
    for index in range(8):
        size_hw = (60 + 4 * index, 90)
        name = f"{'abbb'[index % 4]}/photo{index}.png"
        image = rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8)
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / "images" / name, image)
        boxes = np.array([[10, 10, 40, 48], [60, 20, 75, 38]]) if index != 3 else np.zeros((0, 4))
        labels = FaceLabels(boxes=boxes)
        source = "none" if index == 3 else name[0]
        samples.append(FaceSample(str(tmp_path / "images" / name), size_hw, labels, source=source, name=name))
    write_jsonl(tmp_path / "faces.jsonl", samples)
    return tmp_path
