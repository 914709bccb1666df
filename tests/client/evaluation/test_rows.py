import pytest

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.rows import method_rows, text
from pairlens.metrics import Metric
from pairlens.models import Method, MethodKind


@pytest.fixture
def vit(client):
    return client.get_model("vit").model


@pytest.fixture
def cnn(client):
    return client.get_model("cnn").model


def names(texts, model, kind=MethodKind.EXPLANATION):
    return [row.row.name for row in method_rows(texts, model, kind)]


def test_texts_are_normalised(vit):
    assert names(" Rollout , score-cam,ROLLOUT,", vit) == ["rollout", "score_cam"]
    assert names(["rollout(profile=reference,start_block=3)"], vit) == [
        "rollout(start_block=3, profile=reference)"
    ]
    assert names("rollout()", vit) == ["rollout"]


def test_values_have_their_types(cnn):
    (row,) = method_rows("pooled_decomposition(match_matrix=TRUE)", cnn, MethodKind.PAIR)
    assert row.row.name == "pooled_decomposition(match_matrix=true)"
    assert row.method.parameters == {"match_matrix": True}
    assert str(row.method) == "pooled_decomposition(match_matrix=True)"


def test_only_what_was_written_is_in_the_name(cnn):
    for given in ("pooled_decomposition", [Method("pooled_decomposition")]):
        (row,) = method_rows(given, cnn, MethodKind.PAIR)
        assert row.row.name == "pooled_decomposition"
        assert row.method.arguments == ()


def test_underscores_may_be_left_out(cnn):
    assert names("gradcam", cnn) == ["grad_cam"]
    assert names("GradCAM", cnn) == ["grad_cam"]


def test_a_row_is_there_once(vit):
    rows = ["rollout", Method("rollout"), "rollout()", "rollout(profile=paper)"]
    assert names(rows, vit) == ["rollout", "rollout(profile=paper)"]


def test_all_is_what_the_model_gives_without_a_parameter(vit, cnn):
    # The others have no defaults, and cannot run unless something is chosen.
    assert names("all", vit) == ["rollout", "affinity"]
    assert names("all", cnn) == ["grad_cam"]
    assert names("correspondence,all", cnn, MethodKind.PAIR) == [
        "correspondence",
        "pooled_decomposition",
    ]


def test_a_refused_method_is_a_row_with_the_reason(cnn):
    (row,) = method_rows("rollout", cnn, MethodKind.EXPLANATION)
    assert row.row.refusal == "it has no attention"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("rollin", "unknown method 'rollin'"),
        ("rollout(blok=3)", "unknown parameter 'blok'"),
        ("rollout(start_block=x)", "start_block"),
        ("rollout(profile=wild)", "profile is one of"),
        ("grad_cam", "vit knows no method 'grad_cam'"),
        ("", "no method to evaluate"),
        ([], "no method to evaluate"),
        ([Method("rollout", (("blok", 3),))], "unknown parameter 'blok'"),
    ],
)
def test_mistakes_are_found_before_anything_runs(vit, texts, message):
    with pytest.raises(InvalidParameterError, match=message):
        method_rows(texts, vit, MethodKind.EXPLANATION)


def test_settings_say_what_changes_the_numbers(vit):
    (row,) = method_rows("rollout(start_block=3)", vit, MethodKind.EXPLANATION)
    assert row.settings() == {
        "method": "rollout(start_block=3)",
        "defaults": "rollout(start_block=0, end_block=11)",
        "revision": 3,
    }


def test_texts_of_choices_can_be_read_again():
    for choice in (
        Metric.of("deletion", steps=4, fractions=[0.1, 0.25]),
        Metric.of("insertion"),
    ):
        assert Metric.parse(text(choice)) in (choice, Metric.parse(str(choice)))
    assert text(Metric.of("insertion")) == "insertion"
    assert text(Metric.of("deletion", fractions=[0.1, 0.25])) == "deletion(fractions=0.1,0.25)"
