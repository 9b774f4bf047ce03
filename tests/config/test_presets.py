"""A preset is named by its path under configs/."""

from pathlib import Path

import pytest

from medgpt_ray.config import presets
from medgpt_ray.config.loader import ConfigError


def test_presets_have_a_name_and_say_what_they_do() -> None:
    shipped = {preset.name: preset for preset in presets.presets()}
    assert {"tiny/grpo", "medical/grpo_7b_lora"} <= set(shipped)
    assert all(len(preset.description) > 20 for preset in shipped.values())


def test_a_file_comes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert presets.locate("tiny/grpo") == presets.SHIPPED / "tiny" / "grpo.yaml"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "grpo").write_text("")
    assert presets.locate("tiny/grpo") == Path("tiny/grpo")


def test_an_unknown_name_suggests_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny/grpo'"):
        presets.locate("tiny/grop")
