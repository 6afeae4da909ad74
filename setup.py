"""Package metadata. Tool settings are in pyproject.toml, versions seen to work together in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "gluonface" / "__init__.py").read_text("utf-8"), re.M).group(1)

# GluonCV gives the backbones. Both it and MXNet import distutils, which setuptools brings back on Python 3.12.
_GLUON = ["gluoncv==0.10.5.post0", "tqdm>=4.60", 'setuptools>=65; python_version >= "3.12"']
# What a compiled artefact needs. tvm-ffi 0.1.15 crashes when TVM 0.27 writes a module as JSON, hence the exact pins.
_RUNTIME = ["apache-tvm-ffi==0.1.14.post1"]
_DEPLOY = ["apache-tvm==0.27.0.post1", "onnx>=1.16", *_RUNTIME]
# TVM's RPC tracker is a tornado server; a device's server starts its workers with cloudpickle and ends them with psutil
_TUNE = [*_DEPLOY, "tornado>=6.2", "psutil", "cloudpickle"]

EXTRAS = {
    "cpu": ["mxnet==1.9.1", *_GLUON],
    "cu112": ["mxnet-cu112==1.9.1", *_GLUON],
    "runtime": _RUNTIME,
    "deploy": _DEPLOY,
    "tune": _TUNE,
    "viz": ["matplotlib>=3.5"],
    "train": [*_GLUON, "matplotlib>=3.5", "scipy>=1.8"],
    "cofw": ["h5py>=3.0"],  # its official files are HDF5
    "bench": ["matplotlib>=3.5", "psutil", "scipy>=1.8", "tqdm>=4.60", "onnxruntime>=1.17", "openvino>=2024.0"],
    # scikit-image 0.22 carries the photo inside its wheel and installs with NumPy below 2 on Python 3.10 to 3.12
    "demo": ["matplotlib>=3.5", "scikit-image>=0.22,<0.23"],
    # Deployment is tested for real: compiled by TVM, tuned over RPC, exported nets run by onnxruntime
    "test": [
        *_TUNE,
        *("onnxruntime>=1.17", "pytest>=7", "pytest-xdist>=3.3"),
        *("ruff==0.17.6", "scipy>=1.8", "setuptools>=65", "wheel"),
    ],
}

setup(
    name="gluonface",
    version=VERSION,
    description="Face detection, alignment and head pose as Gluon blocks: trained, measured, compiled",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords="face detection landmarks retinaface mxnet gluon gluoncv tvm",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.13",
    install_requires=[
        "numpy>=1.23.5,<2",  # MXNet 1.9.1 knows nothing of NumPy 2
        "opencv-python>=4.6,<4.12",  # 4.12 and later ask for NumPy 2
        "Pillow>=9.2",
    ],
    extras_require=EXTRAS,
    # The outer folder model_zoo/ (weights, cards, tuning records: data, no Python) becomes gluonface/_model_zoo.
    packages=[*find_packages(include=["gluonface", "gluonface.*"]), "gluonface._model_zoo"],
    package_dir={"gluonface._model_zoo": "model_zoo"},
    package_data={
        "gluonface": ["py.typed"],
        "gluonface.mesh": ["mesh468.npz"],
        "gluonface._model_zoo": ["**/*"],
    },
    include_package_data=False,
    exclude_package_data={"gluonface._model_zoo": ["**/*.tmp", "**/.*"]},
    entry_points={"console_scripts": ["gluonface = gluonface.cli:main"]},
    zip_safe=False,
)
