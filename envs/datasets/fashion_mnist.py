"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) and where it comes from."""

from pathlib import Path
from typing import Final

from plasticity.envs.datasets.dataset_sources import debian_package, gzip_mirror
from plasticity.envs.datasets.datasets import Dataset, Split, dataset
from plasticity.envs.datasets.idx import idx_files, parse_idx_pair
from plasticity.envs.datasets.image_set import ImageSet, image_dataset

_FILES: Final = idx_files(
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
)

FASHION_MNIST: Final = ImageSet(
    name="fashion_mnist",
    classes=10,
    train_files=_FILES[:2],
    test_files=_FILES[2:],
    sources=(
        gzip_mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/", _FILES),
        gzip_mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _FILES),
        debian_package("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"), _FILES),
    ),
    parse=parse_idx_pair,
)


@dataset("fashion_mnist")
def load_fashion_mnist(split: Split, root: Path) -> Dataset:
    """60,000 + 10,000 uint8 images (1, 28, 28) of ten kinds of clothes."""
    return image_dataset(FASHION_MNIST, split, root)
