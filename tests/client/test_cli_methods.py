import json

from tests.client.conftest import Run


def lines(out: str) -> dict[str, str]:
    return {line.split()[0]: line for line in out.splitlines() if line.strip()}


def test_all_models(run: Run):
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    found = lines(out)
    assert "768" in found["score_cam"]
    assert "Author of score_cam, 2020" in found["score_cam"]
    assert "class, similarity" in found["grad_cam"]
    assert found["rollout"].rstrip().endswith("vit")
    assert found["correspondence"].rstrip().endswith("cnn")


def test_a_method_that_no_model_gives_says_why(run: Run, service):
    del service.models[1]
    found = lines(run("methods")[1])
    assert "none: its embedding is no sum over patches" in found["pooled_decomposition"]


def test_costs_that_differ_are_a_range(run: Run, service):
    service.models[1].methods[0].refusal = ""
    service.models[1].methods[0].forward_passes = 1.5
    assert "1 to 1.5" in lines(run("methods")[1])["rollout"]


def test_one_model(run: Run):
    code, out, err = run("methods", "--model", "vit")
    assert (code, err) == (0, "")
    assert "vit (vit_tiny_patch16_224)" in out
    found = lines(out[: out.index("before using")])
    assert "shows rollout" in found["rollout"]
    assert "refused: its embedding is no sum over patches" in found["pooled_decomposition"]
    assert "slow on a CPU" in lines(out[out.index("before using") :])["score_cam"]


def test_json(run: Run):
    models = json.loads(run("methods", "--json")[1])["models"]
    assert [model["model"] for model in models] == ["vit", "cnn"]
    (vit,) = json.loads(run("methods", "--model", "vit", "--json")[1])["models"]
    method = {method["name"]: method for method in vit["methods"]}["score_cam"]
    assert (method["forward_passes"], method["takes_class"], method["caution"]) == (
        768,
        True,
        "slow on a CPU",
    )
