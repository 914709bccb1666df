import pytest

from tests.client.conftest import Run
from tests.client.scripted import Scripted, fails

MISTAKES = [
    (["explain", "no.png"], "no such file: no.png"),
    (["explain", "photos"], "photos is a folder"),
    (["explain", "cat.png", "dog.png", "--out", "map.png"], "--out is a folder when"),
    (["explain", "cat.png", "dog.png", "--out", "notes.txt"], "notes.txt is a file"),
    (["explain", "cat.png", "--out", "map.gif"], "cannot write map.gif: the suffix is one of"),
    (["explain", "cat.png", "--out", "no/map.png"], "no/map.png: No such file"),
    (["explain", "cat.png", "--color-map", "jet"], "--color-map needs --out"),
    (["explain", "cat.png", "--fixed-range", "0", "1"], "--fixed-range needs --out"),
    (["explain", "cat.png", "--out", "m.png", "--opacity", "2"], "opacity is from 0 to 1"),
    (["explain", "cat.png", "--out", "m.png", "--opacity", "x"], "argument --opacity: invalid"),
    (["explain", "cat.png", "--out", "m.png", "--scale", "fixed"], "scale 'fixed' needs"),
    (["explain", "cat.png", "--out", "m.png", "--scale", "pair"], "invalid choice: 'pair'"),
    (["explain", "cat.png", "--out", "m.npy", "--color-map", "jet"], "color_map: a .npy file"),
    (["explain", "cat.png", "--method", "grad"], "invalid choice: 'grad'"),
    (["explain", "cat.png", "--method", "gradcam"], "invalid choice: 'gradcam'; near: grad_cam ("),
    (["explain", "cat.png", "--head", "1"], "unknown parameter 'head'; rollout takes"),
    (["explain", "cat.png", "--unit", "1"], "; unit is of hidden_unit"),
    (["explain", "cat.png", "--profile", "best"], "invalid choice: 'best'"),
    (["explain", "cat.png", "--block", "-1", "--method", "raw_attention"], "block is an integer"),
    (["explain", "cat.png", "--model", "vit", "--method", "rollout", "--timeout", "0"], "timeout"),
    (["explain", "notes.txt"], "not a picture"),
    (["explain"], "the following arguments are required: IMAGE"),
    (["explain", "cat.png", "--method", "raw_power", "--power", "a"], "--power: invalid float"),
    (["explain", "cat.png", "--method", "attention_mask", "--ratio", "nan"], "ratio is a finite"),
    (["explain", "cat.png", "--set", "power"], "is no NAME=VALUE"),
    (["explain", "cat.png", "--set", "pover=1"], "is no NAME=VALUE"),
    (["explain", "cat.png", "--set", "blocks=1,x"], "--set: blocks: invalid literal"),
    (["explain", "cat.png", "--set", "premap=yes"], "--set: premap: true or false"),
    (["explain", "cat.png", "--block", "1", "--set", "block=2"], "block is given twice"),
    (["explain", "cat.png", "--similar-to", "no.png"], "no such file: no.png"),
    (["explain", "cat.png", "--similar-to", "dog.png", "--target", "1"], "not both"),
    (["explain", "cat.png", "--heads"], "--heads needs --out or --json"),
    (["explain", "cat.png", "--heads", "--out", "m.npy"], "one .npy cannot hold several maps"),
    (["explain", "cat.png", "--heads", "--set", "each=head", "--json"], "set each"),
    (
        ["explain", "cat.png", "--method", "rollout", "--heads", "--json"],
        "unknown parameter 'each'",
    ),
    (
        ["explain", "cat.png", "--panels", "--out", "m.png"],
        "rollout(start_block=0, end_block=11) gives",
    ),
    (["explain", "cat.png", "--max-cost", "3"], "--max-cost goes with --method all"),
    (["explain", "cat.png", "--save-mask", "m.npz"], "a mask is an .npy or a .png"),
    (["explain", "cat.png", "--save-mask", "m.npy"], "rollout makes no mask"),
    (["explain", "cat.png", "dog.png", "--save-mask", "m.npy"], "for one picture"),
    (["explain", "cat.png", "--method", "all", "--heads", "--json"], "--heads draws one method"),
    (["explain", "cat.png", "--method", "all", "--out", "m.npz"], "--out is a .png or .jpg"),
    (["explain", "cat.png", "--method", "all", "--window", "3"], "no method of this model takes"),
    (["explain", "cat.png", "--method", "all", "--max-cost", "0"], "leaves no method"),
    (["explain", "cat.png", "--method", "all", "--model", "x"], "no model 'x'"),
    (["explain", "notes.txt", "--method", "all"], "not a picture"),
    (["attention", "no.png"], "no such file: no.png"),
    (["attention", "cat.png", "--out", "a.npy"], "the suffix is one of .png, .jpg"),
    (["attention", "cat.png", "--out", "a.npz", "--opacity", "1"], "values and no colours"),
    (["pair", "cat.png", "dog.png", "--query-region", "1,2,3"], "is not left,top,right,bottom"),
    (["pair", "cat.png", "dog.png", "--query-region", "a,2,3,4"], "--query-region: invalid region"),
    (
        ["pair", "cat.png", "dog.png", "--method", "correspondence", "--query-region", "9,2,3,4"],
        "query_region is a Box",
    ),
    (["methods", "--model", "x"], "no model 'x'"),
    (["metrics", "--model", "x"], "no model 'x'"),
    (["score", "no.png"], "no such file: no.png"),
    (["score", "cat.png", "--similar-to", "no.png"], "no such file: no.png"),
    (["score", "cat.png", "--heatmap", "no.npy"], "no such file: no.npy"),
    (["score", "cat.png", "--heatmap", "cat.png"], "cat.png has colours"),
    (["score", "cat.png", "--heatmap", "notes.txt"], "notes.txt is no .npy, .npz or .png"),
    (["score", "cat.png", "--mask", "notes.txt"], "cannot read notes.txt"),
    (["score", "cat.png", "--metrics", "deletion(steps=0.5)"], "steps: invalid literal for int"),
    (["score", "cat.png", "--metrics", "delete"], "unknown metric 'delete'; the metrics are"),
    (["score", "cat.png", "--metrics", "deletion(3"], "'deletion(3' is no name or name("),
    (["score", "cat.png", "--metrics", ""], "give at least one metric"),
    (["score", "cat.png", "--method", "rollout(depth=3)"], "unknown parameter 'depth'; rollout"),
    (["score", "cat.png", "--method", "all"], "unknown method 'all'"),
    (["score", "cat.png", "--sides", "image,left"], "sides: 'left' is none of image, partner"),
    (["score", "cat.png", "--box", "1,2,3"], "is not left,top,right,bottom"),
    (["score", "cat.png", "--box", "1,2,0,3"], "a box is a Box or (left, top, right, bottom)"),
    (["score", "cat.png", "--extent", "world"], "invalid choice: 'world'"),
    (["score", "cat.png", "--target", "1", "--similar-to", "dog.png"], "not both"),
    (["score", "cat.png", "--out", "scores.npy"], "cannot write scores.npy: the suffix is one of"),
    (["score", "cat.png", "--out", "s.png", "--metrics", "average_drop"], "draws curves, which"),
    (["explain", "cat.png", "--frobnicate"], "unrecognized arguments: --frobnicate (see"),
    (
        ["explain", "cat.png", "--metod=rollout"],
        "pairlens explain: unrecognized arguments: --metod=rollout; near: --method (see pairlens "
        "explain --help)",
    ),
    (["server", "status", "now"], "pairlens server status: unrecognized arguments: now (see"),
    (["pair", "cat.png"], "the following arguments are required: CANDIDATE"),
    (["pair", "cat.png", "no.png"], "no such file: no.png"),
    (["pair", "notes.txt", "cat.png", "--model", "vit", "--profile", "paper"], "no model gives"),
    (["pair", "cat.png", "dog.png", "--out", "pair.npy"], "the suffix is one of .png, .jpg"),
    (["pair", "cat.png", "dog.png", "cat.png", "--match-matrix", "m.npy"], "suffix .npz"),
    (["pair", "cat.png", "dog.png", "--match-matrix", "m.png"], "suffix .npy or .npz"),
    (["models", "unknown"], "no model 'unknown'"),
    (["paint"], "invalid choice: 'paint' (choose from models, "),
    (["explian", "cat.png"], "invalid choice: 'explian'; near: explain (choose"),
    ([], "the following arguments are required: COMMAND"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("pairlens")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("INVALID_PARAMETER", 2),
        ("IMAGE_TOO_LARGE", 2),
        ("MODEL_NOT_FOUND", 2),
        ("METHOD_UNSUPPORTED", 2),
        ("OUT_OF_MEMORY", 1),
        ("DEADLINE_UNREACHABLE", 1),
        ("INTERNAL", 1),
    ],
)
def test_the_servers_refusals(run: Run, service: Scripted, reason: str, code: int):
    service.script.append(fails(reason, "what\nand \x1b[31mwhy"))
    found = run("explain", "cat.png", "--model", "vit", "--json")
    assert found == (code, "", "pairlens: what and \ufffd[31mwhy\n")
