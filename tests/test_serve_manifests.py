"""The manifests for a cluster are whole YAML, with the Ray version that we install."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ruamel.yaml import YAML

FOLDER = Path(__file__).parent.parent / "serve"


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_a_manifest(name: str) -> None:
    manifest: dict[str, Any] = YAML(typ="safe", pure=True).load(FOLDER / f"{name}.yaml")
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts["/shared"] == "shared"
            assert set(mounts.values()) <= volumes
