"""Pictures of pairs that cannot be used, and numbers that are none, with the scripted server."""

import pytest

from pairlens._images import encode
from pairlens.errors import ImageUndecodableError
from pairlens.evaluation import read_dataset
from pairlens.evaluation.pair_maps import PairMapMaker, naming
from pairlens.evaluation.pair_measures import PairOptions, pair_measures
from pairlens.evaluation.pairfaith import PairFaith
from pairlens.evaluation.pairs import pair_case
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.rows import method_rows
from pairlens.models import MethodKind
from pairlens.v1 import explanation_service_pb2
from tests.client import scripted
from tests.client.evaluation.pictures import class_folders
from tests.client.scripted import fails

ROW = "pooled_decomposition"
SCORE = explanation_service_pb2.ScoreSaliencyRequest
PAIR = explanation_service_pb2.PairSimilarityRequest


@pytest.fixture
def pairs(client, tmp_path):
    data = read_dataset(class_folders(tmp_path / "data", {"a": 3, "b": 3}))
    model = client.get_model("cnn").model
    rows = method_rows(ROW, model, MethodKind.PAIR)
    options = PairOptions(substrates=("mean",))
    return PairFaith(client, model, data, rows, tmp_path / "run", options)


def chosen(pairs):
    """Case, and the paths of query, positive and second."""
    case, shared = pairs.cases()[0], pairs._prepared()
    usable = pairs._embedded().usable
    found = pair_case(pairs._queries[case], shared.vectors, pairs._labels, pairs._digests, usable)
    images = pairs._data.images
    return case, [images[index].path for index in (found.query, found.positive, found.second)]


def refuse(service, kind, field):
    """Let calls of a kind fail for a picture."""

    def act(context):
        if isinstance(service.calls[-1], kind):
            fails("IMAGE_UNDECODABLE", "a broken picture", field=field)(context)

    service.script.extend([act] * 50)


@pytest.mark.parametrize(
    ("kind", "field", "place"),
    [
        (PAIR, "query", 0),
        (PAIR, "candidates[0]", 1),
        (PAIR, "candidates[1]", 2),
        (SCORE, "image", 0),
        (SCORE, "target.similarity.images[0]", 1),
    ],
)
def test_the_file_that_the_server_cannot_use_is_named(service, pairs, kind, field, place):
    case, paths = chosen(pairs)
    refuse(service, kind, field)
    with pytest.raises(UnusableFileError) as raised:
        pairs.run(ROW, case)
    assert (raised.value.path, raised.value.reason) == (paths[place], "a broken picture")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_file_that_is_gone_is_named(pairs, place):
    case, paths = chosen(pairs)
    pairs._data.file(paths[place]).unlink()
    with pytest.raises(UnusableFileError) as raised:
        pairs.run(ROW, case)
    assert (raised.value.path, raised.value.reason) == (paths[place], "No such file or directory")


@pytest.mark.parametrize(
    ("calls", "field"), [(0, "query"), (1, "candidates[0]"), (2, "candidates[1]")]
)
def test_a_call_with_one_picture_names_its_place_among_all(client, service, calls, field):
    model = client.get_model("vit").model
    maker = PairMapMaker(client, model, [], seed=0, timeout=None)
    images = [encode(scripted.png(20 + count)) for count in range(3)]
    service.script.extend([lambda context: None] * calls)
    service.script.append(fails("IMAGE_UNDECODABLE", "broken", field="image"))
    with pytest.raises(ImageUndecodableError) as raised:
        maker.maps("single-image rollout", "case", images[0], images[1:])
    assert raised.value.field == field


def test_naming():
    with pytest.raises(UnusableFileError) as raised, naming("q", ["a", "b"]):
        raise ImageUndecodableError("broken", field="candidates[1].inline")
    assert raised.value.path == "b"


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_erased_query_without_a_direction_is_noted(pairs, monkeypatch, value):
    case, _ = chosen(pairs)
    honest = scripted.scored

    def scored(request):
        response = honest(request)
        for result in response.results:
            embeddings = scripted.tensor([[1, 2, 3, 4, 5], [value] * 5, [1] * 5, [1] * 5])
            result.curve.embeddings.CopyFrom(embeddings)
        return response

    monkeypatch.setattr(scripted, "scored", scored)
    record = pairs.run(ROW, case)
    for name in ("contrast", "specificity", "rank_drop"):
        assert record.values[name] is None
        assert "zero or not finite" in record.notes[name]
    assert record.values["srg"] is not None


def test_three_fills_by_default_and_when_areas_are_undefined():
    assert PairOptions().substrates == ("mean", "blur", "noisy_linear")
    measures = {each.name: each for each in pair_measures(PairOptions().substrates)}
    for name in ("srg", "image.srg", "both.del_auc", "partner.ins_auc"):
        for suffix in ("", ":blur", ":noisy_linear"):
            assert "Undefined where clean - floor is below 0.05." in (
                measures[name + suffix].description
            )
