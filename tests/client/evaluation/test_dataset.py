import hashlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.dataset import LabelledImage, class_finder, read_dataset
from pairlens.evaluation.records import SkippedFile
from pairlens.models import Limits
from tests.client.evaluation.pictures import class_folders, write

LIMITS = Limits(
    max_request_bytes=2**22,
    max_image_bytes=10_000,
    max_image_pixels=5000,
    max_candidates=4,
    max_rendered_pixels=0,
    max_match_values=0,
    max_target_embeddings=0,
    image_formats=("PNG", "JPEG"),
)


def paths(dataset):
    return [image.path for image in dataset.images]


def test_folders_are_classes_and_files_may_lie_deeper(tmp_path):
    class_folders(tmp_path, {"cat": 2, "dog": 1})
    write(tmp_path / "cat" / "indoors" / "old" / "x.jpg")
    dataset = read_dataset(tmp_path)
    assert {image.path: image.label for image in dataset.images} == {
        "cat/000.png": "cat",
        "cat/001.png": "cat",
        "cat/indoors/old/x.jpg": "cat",
        "dog/000.png": "dog",
    }
    assert list(dataset.by_label) == ["cat", "dog"]
    image = dataset.by_path["dog/000.png"]
    assert image.digest == hashlib.sha256((tmp_path / "dog/000.png").read_bytes()).hexdigest()
    assert dataset.picture(image).size == (30, 20)
    assert dataset.skipped == ()


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path):
    class_folders(tmp_path, {"cat": 1})
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "empty.jpg").write_bytes(b"")
    whole = write(tmp_path / "cat" / "torn.jpg", height=60, width=60).read_bytes()
    (tmp_path / "cat" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"hidden")
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    write(tmp_path / "loose.png")
    dataset = read_dataset(tmp_path)
    assert paths(dataset) == ["cat/000.png"]
    skipped = {file.path: file.reason for file in dataset.skipped}
    assert skipped.pop("cat/torn.jpg")
    assert skipped == {
        "cat/empty.jpg": "no picture, or a broken one",
        "cat/gone.png": "No such file or directory",
        "cat/moving.gif": "an animated picture",
        "cat/notes.txt": "no picture, or a broken one",
        "loose.png": "lies in no class folder",
    }


def test_what_the_server_would_refuse_is_skipped(tmp_path):
    class_folders(tmp_path, {"cat": 1})
    write(tmp_path / "cat" / "large.png", height=100, width=100)
    write(tmp_path / "cat" / "wide.jpg", height=50, width=101)
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "other.webp")
    assert len(read_dataset(tmp_path)) == 4
    dataset = read_dataset(tmp_path, limits=LIMITS)
    assert paths(dataset) == ["cat/000.png"]
    assert "over the server's limit of 10000" in dataset.skipped[0].reason
    assert dataset.skipped[1:] == (
        SkippedFile("cat/other.webp", "WEBP files are not among those the server takes"),
        SkippedFile("cat/wide.jpg", "5050 pixels are over the server's limit of 5000"),
    )


def test_any_prefix_is_balanced(tmp_path):
    class_folders(tmp_path, {"a": 9, "b": 5, "c": 2})
    dataset = read_dataset(tmp_path)
    labels = [image.label for image in dataset.images]
    assert len(labels) == 16
    for length in range(1, 17):
        counts = Counter(labels[:length])
        full = {"a": 9, "b": 5, "c": 2}
        largest = max(counts.values())
        # A class is behind by more than one only when it has no more.
        assert all(counts[label] >= min(largest - 1, count) for label, count in full.items()), (
            length
        )


def test_less_is_a_part_of_more(tmp_path):
    class_folders(tmp_path, {"a": 9, "b": 5, "c": 2})
    whole = paths(read_dataset(tmp_path))
    for limit in (1, 2, 7, 13, 16, 99):
        assert paths(read_dataset(tmp_path, limit=limit)) == whole[:limit]
    for count in (1, 3, 6):
        chosen = read_dataset(tmp_path, per_class=count)
        assert {label: len(own) for label, own in chosen.by_label.items()} == {
            "a": min(count, 9),
            "b": min(count, 5),
            "c": min(count, 2),
        }
        assert set(paths(chosen)) <= set(whole)
        assert paths(read_dataset(tmp_path, per_class=count, limit=4)) == paths(chosen)[:4]


def test_the_seed_chooses(tmp_path):
    class_folders(tmp_path, {"a": 9, "b": 9})
    first = read_dataset(tmp_path, per_class=3, seed=1)
    assert paths(first) == paths(read_dataset(tmp_path, per_class=3, seed=1))
    assert paths(first) != paths(read_dataset(tmp_path, per_class=3, seed=2))


def test_a_broken_file_gives_its_place_to_another(tmp_path):
    class_folders(tmp_path, {"a": 6, "b": 6})
    whole = read_dataset(tmp_path)
    first = [image for image in whole.images if image.label == "a"]
    for image in first[:2]:
        (tmp_path / image.path).write_bytes(b"broken")
    chosen = read_dataset(tmp_path, per_class=2)
    assert [image.path for image in chosen.images if image.label == "a"] == [
        image.path for image in first[2:4]
    ]
    assert [file.path for file in chosen.skipped] == sorted(image.path for image in first[:2])
    # The broken class runs out; others take its place up to the limit.
    for image in first[2:]:
        (tmp_path / image.path).write_bytes(b"broken")
    assert [image.label for image in read_dataset(tmp_path, limit=4).images] == ["b"] * 4


def test_no_more_is_read_than_needed(tmp_path):
    class_folders(tmp_path, {"a": 6, "b": 6})
    broken = [tmp_path / path for path in paths(read_dataset(tmp_path))[6:]]
    for path in broken:
        path.write_bytes(b"broken")
    assert read_dataset(tmp_path, limit=6).skipped == ()


def test_the_digest_is_of_contents_and_labels(tmp_path):
    root = class_folders(tmp_path / "one", {"a": 2, "b": 1})
    dataset = read_dataset(root)
    assert replace(dataset, images=dataset.images[::-1]).digest == dataset.digest
    assert dataset.digest == read_dataset(root, seed=5).digest
    other = class_folders(tmp_path / "two", {"a": 2, "b": 1})
    assert read_dataset(other).digest == dataset.digest
    write(other / "b" / "000.png", seed=77)
    assert read_dataset(other).digest != dataset.digest
    relabelled = replace(dataset.images[0], label="z")
    assert replace(dataset, images=(relabelled, *dataset.images[1:])).digest != dataset.digest


def test_nothing_to_read(tmp_path):
    with pytest.raises(InvalidParameterError, match="no such folder or file"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidParameterError, match="no picture in"):
        read_dataset(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(InvalidParameterError, match=r"a/notes\.txt: no picture"):
        read_dataset(tmp_path)
    for name in ("limit", "per_class"):
        with pytest.raises(InvalidParameterError, match=f"{name} is at least 1"):
            read_dataset(tmp_path, **{name: 0})


LABELS = (
    "tench, Tinca tinca",
    "crane",
    "goldfish",
    "crane, lifting machine",
    "7",
    "maillot",
    "maillot",
)


@pytest.mark.parametrize(
    ("label", "index", "classes", "expected"),
    [
        ("tench", None, 5, 0),
        ("TINCA_tinca", None, 5, 0),
        ("tench, Tinca tinca", None, 5, 0),
        ("lifting machine", None, 5, 3),
        ("crane", None, 5, 1),  # the whole label, before one name of two classes
        ("maillot", None, 7, None),  # of two classes
        ("trout", None, 5, None),
        ("3", None, 5, 3),
        ("7", None, 5, 4),  # its name
        ("5", None, 5, None),
        ("tench", 2, 5, 0),  # an index of ImageNet is none of five classes
        ("anything", 2, 1000, 2),
        ("", None, 5, None),
    ],
)
def test_the_model_s_class_of_a_label(label, index, classes, expected):
    model = SimpleNamespace(labels=LABELS, classes=classes)
    image = LabelledImage("x.png", label, index, (), "")
    assert class_finder(model)(image) == expected
