"""Labels and files of a data set's layouts."""

import pytest

from pairlens.errors import InvalidParameterError
from pairlens.evaluation._listing import check_apart
from pairlens.evaluation.dataset import read_dataset
from pairlens.evaluation.records import SkippedFile
from pairlens.rendering import Box
from tests.client.evaluation.pictures import class_folders, write


def paths(dataset):
    return [image.path for image in dataset.images]


def test_imagenet_samples_with_all_classes_have_their_index(tmp_path):
    picture = write(tmp_path / "one.png").read_bytes()
    root = tmp_path / "samples"
    root.mkdir()
    for index in range(1000):
        (root / f"n{2 * index + 1440764:08}_word_{index}.JPEG").write_bytes(picture)
    dataset = read_dataset(root, limit=1000)
    assert {image.label: image.imagenet_index for image in dataset.images} == {
        f"word {index}": index for index in range(1000)
    }
    (root / "n01440764_word_0.JPEG").unlink()
    assert {image.imagenet_index for image in read_dataset(root, limit=5).images} == {None}


def test_names_that_begin_with_a_class_index(tmp_path):
    write(tmp_path / "000_n01440764_tench.jpeg")
    write(tmp_path / "0005_electric_ray.jpeg")
    (tmp_path / "README.md").write_text("about")
    dataset = read_dataset(tmp_path)
    found = {image.path: (image.label, image.imagenet_index) for image in dataset.images}
    assert found == {
        "000_n01440764_tench.jpeg": ("tench", 0),
        "0005_electric_ray.jpeg": ("electric ray", 5),
    }
    assert [file.path for file in dataset.skipped] == ["README.md"]


@pytest.mark.parametrize("name", ["2023_05_holiday.png", "holiday.png", "1_x.png"])
def test_other_names_are_no_labels(tmp_path, name):
    write(tmp_path / name)
    write(tmp_path / "0005_electric_ray.png")
    assert {image.label for image in read_dataset(tmp_path).images} == {""}


def test_a_csv_with_paths_labels_and_boxes(tmp_path):
    write(tmp_path / "in" / "a.png")
    write(tmp_path / "b.png")
    table = tmp_path / "in" / "data.csv"
    table.write_text(
        "\ufefflabel, path ,left,top,right,bottom\n"
        "cat,a.png,1,2,10.5,20\n"
        "dog,../b.png,,,,\n"
        "cat,a.png,0,0,30,20\n"
        "cat,gone.png,,,,\n",
        "utf-8",
    )
    dataset = read_dataset(table)
    assert {image.path: (image.label, image.boxes) for image in dataset.images} == {
        "a.png": ("cat", (Box(1, 2, 10.5, 20), Box(0, 0, 30, 20))),
        "../b.png": ("dog", ()),
    }
    assert dataset.picture("../b.png").size == (30, 20)
    assert dataset.skipped == (SkippedFile("gone.png", "No such file or directory"),)


def test_a_box_outside_of_its_picture(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    lines = "path,label,left,top,right,bottom\na.png,x,5,5,31,9\nb.png,x,5,5,30,9\n"
    (tmp_path / "data.csv").write_text(lines)
    dataset = read_dataset(tmp_path / "data.csv")
    assert paths(dataset) == ["b.png"]
    assert dataset.skipped == (SkippedFile("a.png", "box 5,5,31,9 is outside of 30 x 20"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x\n", "needs the columns path and label"),
        ("", "needs the columns path and label"),
        ("path,label,left\na.png,x,1\n", "boxes, which need the columns"),
        ("path,label\na.png,x\na.png,y\n", "line 3 gives a.png the label 'y' after 'x'"),
        ("path,label\n,x\n", "line 2 has no path"),
        ("path,label,left,top,right,bottom\na.png,x,1,2,3,\n", "no four numbers"),
        ("path,label,left,top,right,bottom\na.png,x,1,2,3,inf\n", "not finite"),
    ],
)
def test_a_bad_csv_says_where(tmp_path, text, message):
    write(tmp_path / "a.png")
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(InvalidParameterError, match=message):
        read_dataset(tmp_path / "data.csv")


def test_a_binary_file_is_no_csv(tmp_path):
    with pytest.raises(InvalidParameterError, match="is no CSV"):
        read_dataset(write(tmp_path / "a.jpg"))


def test_folders_that_link_to_each_other_end(tmp_path):
    class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert paths(read_dataset(tmp_path)) == ["a/000.png"]


def test_folders_of_evaluations_hold_no_pictures(tmp_path):
    root = class_folders(tmp_path / "data", {"a": 2, "b": 1})
    before = read_dataset(root)
    for place in ("run", "a/run"):
        write(root / place / "deeper" / "curve.png", seed=9)
        (root / place / "journal.jsonl").touch()
    dataset = read_dataset(root)
    assert paths(dataset) == paths(before)
    assert (dataset.digest, dataset.skipped) == (before.digest, ())


def test_a_run_does_not_write_among_the_pictures(tmp_path):
    root = class_folders(tmp_path / "data", {"a": 2, "b": 1})
    (tmp_path / "again").symlink_to(root)
    for place in (root, root / "a", root / "b" / ".." / "a", tmp_path / "again"):
        with pytest.raises(InvalidParameterError, match="is a folder of the data set"):
            check_apart(root, place)
    (root / "a" / "run").mkdir()
    for place in (root / "run", root / "a" / "run", tmp_path, tmp_path / "other"):
        check_apart(root, place)
    # A run that was there before goes on.
    write(root / "run" / "curve.png")
    with pytest.raises(InvalidParameterError):
        check_apart(root, root / "run")
    (root / "run" / "journal.jsonl").touch()
    check_apart(root, root / "run")
    # Files of a table are named one by one.
    table = root / "data.csv"
    table.write_text("path,label\na/000.png,a\n")
    check_apart(table, root)
