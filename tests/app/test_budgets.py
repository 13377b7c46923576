"""What a memory does to a preset, in words."""

import pytest

from app import budgets
from training.config import PRESETS
from training.memory import BUDGETS, ROWS, settings_for


@pytest.fixture
def ask_again():
    budgets.found.cache_clear()
    yield
    budgets.found.cache_clear()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_memory_says_what_it_sets(preset):
    for words, budget in budgets.choices(preset, "plp", 12)[2:]:
        name = "No GPU" if budget == "cpu" else f"{budget} GB"
        assert words.startswith(f"{name}: ")
        if (preset, "plp", budget) not in ROWS:
            assert words in (f"{name}: as it is, since it fits anywhere", f"{name}: not measured yet")
            continue
        row = settings_for(preset, "plp", budget)
        said = words.partition(": ")[2].removesuffix(" (this machine: recommended)").split(", ")
        assert said[0] == row["precision"] and f"rank {row['adapter']['rank']}" in said
        assert ("checkpointing" in said) == row["steps"]["gradient_checkpointing"]
        assert any(one.startswith(f"batch {row['steps']['batch_size']}") for one in said)
        assert (f"{row['resolution']} px" in said) == (row["resolution"] != PRESETS[preset]["resolution"])
        assert words.endswith("(this machine: recommended)") == (budget == 12)
    assert [budget for _, budget in budgets.choices(preset, "plp")] == ["", "auto", *BUDGETS]


def test_the_words_of_a_row_are_a_person_s():
    said = {budget: words for words, budget in budgets.choices("sdxl", "plp")}
    assert said[8] == "8 GB: bf16, checkpointing, batch 1 x 4, rank 16, 512 px"


def test_what_this_machine_has_is_what_auto_takes(ask_again, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert budgets.found() == "cpu"
    (tmp_path / "nvidia-smi").touch(mode=0o755)  # now PyTorch is asked
    budgets.found.cache_clear()
    from training.memory import found_budget

    assert budgets.found() == found_budget()
