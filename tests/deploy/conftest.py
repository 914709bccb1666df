import sys
from pathlib import Path

import pytest

from tests.deploy import container_file


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the build stage, its environment below it at `opt/pairlens`."""
    if sys.version_info < (3, 11):
        pytest.skip("the image has Python 3.11, and its build needs tomllib")
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)  # for the user of the image
    container_file.build(folder)
    return folder
