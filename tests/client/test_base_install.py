import json
import subprocess
import sys
from pathlib import Path

from tests.client.scripted import Running, png

BLOCKED = (
    "cv2",
    "grpc_health",
    "grpc_reflection",
    "matplotlib",
    "pairlens_server",
    "pydantic",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
)

PROGRAM = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Block())
import pairlens, pairlens.cli

missing = [name for name in pairlens.__all__ if not hasattr(pairlens, name)]
with pairlens.Client(TARGET) as client:
    made = client.explain(PICTURE)
    made.save(FOLDER + "/map.png")
    client.pair_similarity(PICTURE, [PICTURE]).save(FOLDER + "/pair.png")
code = pairlens.cli.main(["explain", PICTURE, "--server", TARGET, "--out", FOLDER + "/cli.png"])
loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(BLOCKED))
print(json.dumps({"missing": missing, "code": code, "loaded": loaded}))
"""


def test_the_client_needs_no_model_library(server: Running, tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(png())
    constants = {
        "BLOCKED": BLOCKED,
        "TARGET": server.target,
        "PICTURE": str(tmp_path / "cat.png"),
        "FOLDER": str(tmp_path),
    }
    program = "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"missing": [], "code": 0, "loaded": []}
    assert {path.name for path in tmp_path.iterdir()} == {
        "cat.png",
        "map.png",
        "pair.png",
        "cli.png",
    }
