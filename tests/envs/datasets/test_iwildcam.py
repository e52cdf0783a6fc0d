import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plasticity.envs.datasets import iwildcam
from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.iwildcam import find_folder, read_image
from plasticity.envs.factory import build_stream
from plasticity.envs.tasks import camera_locations
from plasticity.envs.tasks.camera_locations import CameraLocations, CameraLocationsSettings
from plasticity.envs.tasks.task_stream import TaskStream

COLUMNS = ["split", "location_remapped", "location", "sequence_remapped", "datetime", "seq_id", "y", "category_id", "filename"]
# place: training images, test images, others
PLACES = {7: (4, 2, 1), 12: (3, 0, 1), 20: (1, 1, 0), 31: (0, 0, 5), 40: (6, 1, 0)}


def label_of(place: int, index: int) -> int:
    return (place + 2 * index) % 9


def grey(place: int, index: int) -> int:
    return 3 * place + 10 * index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes images of 20 x 10 pixels of one grey each, and the metadata with an unnamed first column, as WILDS has them."""
    folder = tmp_path / "iwildcam_v2.0"
    (folder / "train").mkdir(parents=True)
    rows = []
    for place, (train, test, other) in PLACES.items():
        for index, split in enumerate(["train"] * train + ["id_test"] * test + ["val" if place == 31 else "id_val"] * other):
            name = f"{place}-{index}.jpg"
            shape = (10, 20, 3) if index % 2 else (10, 20)  # some images have no colours
            Image.fromarray(np.full(shape, grey(place, index), np.uint8)).save(folder / "train" / name, quality=95)
            rows.append([split, place, place + 500, 0, "2013-06-05 05:44:19", "s", label_of(place, index), 1, name])
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *COLUMNS])
        writer.writerows([number, *row] for number, row in enumerate(rows))
    return folder


def test_tasks_are_places_with_enough_images(folder: Path) -> None:
    source = CameraLocations(folder, CameraLocationsSettings(side=6, images_at_least=3), 0)
    assert source.places == 3
    assert sorted(source.location(number) for number in range(3)) == [7, 12, 40]
    assert [source.location(number + 3) for number in range(3)] == [source.location(number) for number in range(3)]
    assert (source.input_shape, source.outputs, source.classification) == ((3, 6, 6), 9, True)
    for number in range(3):
        place = source.location(number)
        train, test, _ = PLACES[place]
        data = source.task(number)
        assert source.examples_in(number) == len(data.train.inputs) == train
        assert data.train.targets.tolist() == [label_of(place, index) for index in range(train)]
        assert data.train.inputs.dtype == torch.uint8
        for index in range(train):
            assert bool(((data.train.inputs[index].int() - grey(place, index)).abs() <= 2).all())
        if test:
            assert data.test is not None
            assert data.test.targets.tolist() == [label_of(place, train + index) for index in range(test)]
        else:
            assert data.test is None


def test_the_order_follows_from_the_seed_alone(folder: Path) -> None:
    def order(seed: int) -> list[int]:
        source = CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1), seed)
        return [source.location(number) for number in range(4)]

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(8)}) > 1


def test_images_of_any_shape_are_resized(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 3), np.uint8)
    pixels[:, 4:] = [200, 100, 50]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 2)
    assert image.shape == (3, 2, 2)
    assert image[0, 0, 0] < image[0, 0, 1]
    assert (image[0, :, 1] > image[1, :, 1]).all()
    assert (image[1, :, 1] > image[2, :, 1]).all()


def test_the_stream_resumes_in_the_middle(folder: Path) -> None:
    settings = CameraLocationsSettings(data_folder=str(folder.parent), side=4, images_at_least=3, batch_size=2)
    whole, problem = build_stream(settings, 0, torch.device("cpu"))
    resumed, _ = build_stream(settings, 0, torch.device("cpu"))
    assert isinstance(whole, TaskStream)
    assert isinstance(resumed, TaskStream)
    assert (problem.outputs, problem.discrete, problem.validates, problem.masks) == (9, True, False, False)
    for _ in range(3):
        whole.advance()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(8):
        expected, found = whole.advance(), resumed.advance()
        assert expected.task == found.task
        assert torch.equal(expected.batch[0], found.batch[0])
        assert torch.equal(expected.batch[1], found.batch[1])


def test_missing_data_name_every_way_to_provide_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path / "data"))
    for folder in (None, tmp_path):
        with pytest.raises(DatasetError) as caught:
            find_folder(folder)
        message = str(caught.value)
        for way in ("env.data_folder", "WILDS", str(tmp_path / "data" / "iwildcam_v2.0"), "PLASTICITY_DATA"):
            assert way in message
        assert "\n" not in message


def test_the_data_are_found_in_the_folder_or_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASTICITY_DATA", str(folder.parent))
    assert find_folder(None) == find_folder(folder) == find_folder(folder.parent) == folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 0}, r"env\.side=0 must be at least 1"),
        ({"images_at_least": 0}, r"env\.images_at_least=0 must be at least 1"),
        ({"order": "random"}, r"env\.order=random is unknown; choose from periodic, fresh"),
        ({"images_at_least": 3, "places": 4}, "places=4 with order=periodic: 3 places have images_at_least=3 images"),
        ({"images_at_least": 3, "places": 0}, "places=0 with order=periodic: 3 places have"),
        ({"images_at_least": 6, "order": "fresh"}, "places=None with order=fresh: 1 places have images_at_least=6"),
        ({"images_at_least": 7}, "no place has images_at_least=7 images to train on; the largest has 6"),
    ],
)
def test_settings_out_of_range_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraLocations(folder, CameraLocationsSettings(**settings), 0)


def test_another_data_set_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"env\.dataset=cifar10 is unknown; choose from iwildcam"):
        build_stream(CameraLocationsSettings(dataset="cifar10", data_folder=str(folder)), 0, torch.device("cpu"))


def test_damaged_images_are_named(folder: Path) -> None:
    path = folder / "train" / "40-3.jpg"
    whole = path.read_bytes()
    for damaged, message in ((b"no image", "cannot identify"), (whole[:-40], "[Tt]runcated"), (b"", "cannot identify")):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"40-3.jpg is missing or damaged: .*{message}"):
            CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=6), 0).task(0)


def test_missing_images_are_an_error_at_the_start(folder: Path) -> None:
    for name in ("12-0.jpg", "40-6.jpg", "31-0.jpg"):  # to train on, to test on, and of a place that takes no part
        (folder / "train" / name).unlink()
    with pytest.raises(DatasetError, match=r"2 of 16 images are not in .*train, such as (12-0|40-6)\.jpg"):
        CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=3), 0)
    (folder / "train" / "40-6.jpg").write_bytes(b"")
    CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=4), 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",7,", ",seven,", "line 3: expected a file name, numbers location_remapped and y"),
        (",train,", ",trian,", "line 3: expected .* a split among train, val, test, id_val, id_test"),
        (",1,7-1.jpg", ",1", "line 3: expected a file name"),
        (",1,7-1.jpg", ",1,", "line 3: expected a file name"),
        (",1,7-1.jpg", ",1,7-1.jpg,9", "line 3: expected a file name"),
        (",1,7-1.jpg", ',1,"7-1.jpg', "damaged: expected a table in UTF-8, found: unexpected end of data"),
        (",1,7-1.jpg", ",1,\udcff.jpg", "damaged: expected a table in UTF-8, found: .*0xff"),
    ],
)
def test_damaged_metadata_are_named(folder: Path, old: str, new: str, message: str) -> None:
    lines = (folder / "metadata.csv").read_text().splitlines()
    assert old in lines[2]
    damaged = "\n".join([*lines[:2], lines[2].replace(old, new, 1), *lines[3:]])
    (folder / "metadata.csv").write_bytes(damaged.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=rf"metadata\.csv.* {message}"):
        CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1), 0)


def test_a_missing_column_is_named(folder: Path) -> None:
    header = (folder / "metadata.csv").read_text().splitlines()[0]
    (folder / "metadata.csv").write_text(header.replace("location_remapped", "place"))
    with pytest.raises(DatasetError, match=r"has no column 'location_remapped'; it needs filename, location_remapped, split, y"):
        CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1), 0)


def test_metadata_without_all_photographs_are_noted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=6), 0)
    assert "metadata.csv has 25 photographs, all of iwildcam_v2.0 are 203029" in capsys.readouterr().err
    monkeypatch.setattr(iwildcam, "PHOTOGRAPHS", 25)
    CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=6), 0)
    assert capsys.readouterr().err == ""


def test_some_places_take_part(folder: Path) -> None:
    all_ = CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1), 3)
    some = CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1, places=2), 3)
    assert (all_.places, some.places) == (4, 2)
    assert [some.location(number) for number in range(4)] == [all_.location(number) for number in (0, 1, 0, 1)]


def test_fresh_places_are_drawn_at_random_and_never_twice_in_a_row(folder: Path) -> None:
    source, again = (
        CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=1, order="fresh"), 6) for _ in range(2)
    )
    places = [source.location(number) for number in range(400)]
    assert [again.location(number) for number in reversed(range(400))] == places[::-1]
    assert all(before != after for before, after in pairwise(places))
    counts = {(before, after): 0 for before in set(places) for after in set(places) if before != after}
    for pair in pairwise(places):
        counts[pair] += 1
    assert len(set(places)) == 4
    assert all(15 <= count <= 55 for count in counts.values())  # 33 of each pair are expected


def test_the_two_latest_tasks_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CameraLocations(folder, CameraLocationsSettings(side=2, images_at_least=3), 0)
    read: list[str] = []
    monkeypatch.setattr(camera_locations, "read_image", lambda path, side: (read.append(path.name), read_image(path, side))[1])
    for number in (0, 1, 0, 1, 1, 0):
        source.task(number)
    assert len(read) == len(set(read)) == sum(sum(PLACES[source.location(number)][:2]) for number in (0, 1))
