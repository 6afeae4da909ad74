"""Transforms of colours and of image quality; labels pass through.

Called as ``op(image, labels, rng) -> (image, labels)`` with an (H, W, 3) uint8 RGB image; the result is a new array or,
when nothing was drawn, the image itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..base import FaceLabels

__all__ = ["ColourJitter", "Degrade", "Grey", "PcaNoise", "PhotometricDistort", "RandomErasing", "random_fill"]

# ITU-R BT.601 luma of RGB, and the YIQ space in which hue is a plane turn.
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)


def random_fill(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour (RGB) for what lies outside the photo: black, as prediction pads, in half of the cases, else any."""
    if rng.uniform() < 0.5:
        return (0, 0, 0)
    return tuple(int(value) for value in rng.integers(0, 256, size=3))


def _brightness(delta: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = delta
    return matrix


def _contrast(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0])


def _saturation(factor: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = factor * np.eye(3) + (1 - factor) * _LUMA
    return matrix


def _hue(degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = _RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
    return matrix


@dataclass(frozen=True, kw_only=True)
class PhotometricDistort:
    """Brightness, contrast, saturation and hue, each with a probability, in random order (SSD's recipe).

    All four are linear in RGB here (hue turns the chroma plane of YIQ), so that together they cost one pass.

    Parameters
    ----------
    prob : float
        Of each of the four.
    brightness : float
        Largest amount added, of 255.
    contrast, saturation : (float, float)
        Range of the factor.
    hue : float
        Largest turn in degrees.
    """

    prob: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image in other colours."""
        matrix = np.eye(4)
        for which in rng.permutation(4):
            if rng.uniform() >= self.prob:
                continue
            if which == 0:
                step = _brightness(rng.uniform(-self.brightness, self.brightness))
            elif which == 1:
                step = _contrast(rng.uniform(*self.contrast))
            elif which == 2:
                step = _saturation(rng.uniform(*self.saturation))
            else:
                step = _hue(rng.uniform(-self.hue, self.hue))
            matrix = step @ matrix
        return _apply_matrix(image, matrix), labels


@dataclass(frozen=True, kw_only=True)
class Grey:
    """A grey image in three channels, with a probability.

    Parameters
    ----------
    prob : float
    """

    prob: float = 0.05

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image, perhaps in grey."""
        if rng.uniform() >= self.prob:
            return image, labels
        return _apply_matrix(image, _saturation(0.0)), labels


@dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """Brightness, contrast and saturation times random factors, as GluonCV's ``RandomColorJitter`` draws them.

    Parameters
    ----------
    strength : float
        Each factor lies within 1 - strength .. 1 + strength. Contrast turns about the image's mean grey.
    """

    strength: float = 0.4

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image in other colours."""
        brightness, contrast, saturation = rng.uniform(1 - self.strength, 1 + self.strength, size=3)
        matrix = np.eye(4)
        grey = float(_LUMA @ image[::4, ::4].reshape(-1, 3).mean(axis=0))
        for which in rng.permutation(3):
            if which == 0:
                step, grey = _contrast(brightness), grey * brightness
            elif which == 1:
                step = _contrast(contrast)
                step[:3, 3] = (1 - contrast) * grey
            else:
                step = _saturation(saturation)
            matrix = step @ matrix
        return _apply_matrix(image, matrix), labels


# Principal components of ImageNet's RGB values of 0..255 and the roots of their variances (Krizhevsky et al. 2012), as
# MXNet's LightingAug has them.
_PCA_DEVIATIONS = np.array([55.46, 4.794, 1.148])
_PCA_AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True, kw_only=True)
class PcaNoise:
    """One random shift of all colours along the principal components of natural images (AlexNet).

    Parameters
    ----------
    sigma : float
        Standard deviation, in deviations of the components.
    """

    sigma: float = 0.05

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image in other colours."""
        matrix = np.eye(4)
        matrix[:3, 3] = _PCA_AXES @ (rng.normal(0, self.sigma, size=3) * _PCA_DEVIATIONS)
        return _apply_matrix(image, matrix), labels


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """A rectangle of one random colour or of noise laid over the image (Zhong et al., AAAI 2020).

    Parameters
    ----------
    prob : float
    area : (float, float)
        Range of the share of the image that is covered.
    aspect : (float, float)
        Range of height / width, drawn evenly on a logarithmic scale.
    """

    prob: float = 0.5
    area: tuple[float, float] = (0.02, 0.2)
    aspect: tuple[float, float] = (0.3, 3.3)

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image, perhaps with a part hidden."""
        if rng.uniform() >= self.prob:
            return image, labels
        height, width = image.shape[:2]
        area = rng.uniform(*self.area) * height * width
        aspect = math.exp(rng.uniform(*np.log(self.aspect)))
        h = min(height, max(1, round(math.sqrt(area * aspect))))
        w = min(width, max(1, round(math.sqrt(area / aspect))))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        image = image.copy()
        shape = (h, w, 3) if rng.uniform() < 0.5 else (3,)
        image[top : top + h, left : left + w] = rng.integers(0, 256, shape, dtype=np.uint8)
        return image, labels


def _apply_matrix(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    import cv2

    if np.array_equal(matrix, np.eye(4)):
        return image
    return cv2.transform(image, matrix[:3])


@dataclass(frozen=True, kw_only=True)
class Degrade:
    """What cameras and the web do to photos, lightly: blur, lost resolution, noise, JPEG, each by its own probability.

    Parameters
    ----------
    blur_prob, lowres_prob, noise_prob, jpeg_prob : float
    blur_sigma : (float, float)
        Range of the Gaussian's standard deviation in pixels.
    lowres : (float, float)
        Range of the factor by which the image is shrunk and stretched again.
    noise_sigma : (float, float)
        Range of the standard deviation, of 255.
    jpeg_quality : (int, int)
        Range of the quality.
    """

    blur_prob: float = 0.05
    lowres_prob: float = 0.05
    noise_prob: float = 0.05
    jpeg_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.4, 1.6)
    lowres: tuple[float, float] = (0.4, 0.8)
    noise_sigma: tuple[float, float] = (2.0, 10.0)
    jpeg_quality: tuple[int, int] = (30, 85)

    def __call__(
        self, image: np.ndarray, labels: FaceLabels, rng: np.random.Generator
    ) -> tuple[np.ndarray, FaceLabels]:
        """The image, perhaps worse."""
        import cv2

        blur, lowres, noise, jpeg = rng.uniform(size=4) < (
            self.blur_prob,
            self.lowres_prob,
            self.noise_prob,
            self.jpeg_prob,
        )
        if blur:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.blur_sigma), borderType=cv2.BORDER_REPLICATE)
        if lowres:
            height, width = image.shape[:2]
            factor = rng.uniform(*self.lowres)
            small = (max(1, round(width * factor)), max(1, round(height * factor)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        if noise:
            image = _add_noise(image, rng.uniform(*self.noise_sigma), rng)
        if jpeg:
            quality = int(rng.integers(self.jpeg_quality[0], self.jpeg_quality[1] + 1))
            # OpenCV takes the channels for BGR: its luma is a little off, which nobody sees, and a copy is saved.
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return image, labels


def _add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    import cv2

    noise = cv2.LUT(rng.integers(0, 256, image.shape, dtype=np.uint8), _quantiles(round(sigma, 1)))
    return cv2.add(image, noise, dtype=cv2.CV_8U)


@lru_cache(maxsize=256)
def _quantiles(sigma: float) -> np.ndarray:
    """256 equally likely values of a Gaussian, int8: normal numbers by a table, ten times faster than drawing them."""
    from statistics import NormalDist

    normal = NormalDist(0, sigma)
    return np.array([round(normal.inv_cdf((i + 0.5) / 256)) for i in range(256)], np.int8)
