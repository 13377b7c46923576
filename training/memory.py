"""What suits the memory at hand: `memory = 12` in a project file, a row of the table below under what the file says.

Every row of a base learns from the same number of pictures a step, batch size times accumulation, so that less memory
means more time and not another run. Peaks: benchmarks/optimizers/results/peak.json, everything that is loaded included,
below the gigabytes of the row less half of one for the driver.
"""

from typing import Any

from pipelines.errors import UserError

BUDGETS = (8, 12, 16, 24, 48, "cpu")  # gigabytes of a GPU, or none
SMALL = {"name": "gradnorm-lorp", "rank": 0.25, "bits": 8}
EXACT = {"name": "gradnorm-lorp", "rank": 0.25, "bits": 32}
WHOLE = {"name": "gradnorm-lorp", "rank": 128, "bits": 8}
BLOCKS = {"name": "owlore", "rank": 128, "bits": 8}
COLUMNS = (
    "precision",
    "steps.gradient_checkpointing",
    "steps.batch_size",
    "steps.accumulation",
    "adapter.rank",
    "resolution",
    "optimizer",
)
ROWS: dict[tuple, tuple] = {
    # preset, adapter.method, memory
    ("sd15", "plp", 8): ("bf16", False, 2, 2, 32, 512, SMALL),
    ("sd15", "plp", 12): ("bf16", False, 4, 1, 32, 512, SMALL),
    ("sd15", "plp", 16): ("bf16", False, 4, 1, 64, 512, EXACT),
    ("sd15", "plp", 24): ("fp32", False, 4, 1, 64, 512, EXACT),
    ("sd15", "plp", 48): ("fp32", False, 4, 1, 64, 512, EXACT),
    ("sd15", "plp", "cpu"): ("fp32", False, 2, 2, 32, 512, SMALL),
    ("sd15", "full", 8): ("fp32", True, 4, 1, 32, 512, BLOCKS),
    ("sd15", "full", 12): ("fp32", True, 4, 1, 32, 512, WHOLE),
    ("sd15", "full", 16): ("fp32", True, 4, 1, 64, 512, WHOLE),
    ("sd15", "full", 24): ("fp32", True, 4, 1, 64, 512, WHOLE),
    ("sd15", "full", 48): ("fp32", False, 4, 1, 64, 512, WHOLE),
    ("sd15", "full", "cpu"): ("fp32", True, 4, 1, 32, 512, WHOLE),
    ("sdxl", "plp", 8): ("bf16", True, 1, 4, 16, 512, SMALL),
    ("sdxl", "plp", 12): ("bf16", True, 2, 2, 32, 1024, SMALL),
    ("sdxl", "plp", 16): ("bf16", True, 4, 1, 64, 1024, SMALL),
    ("sdxl", "plp", 24): ("bf16", True, 4, 1, 64, 1024, EXACT),
    ("sdxl", "plp", 48): ("bf16", False, 4, 1, 64, 1024, EXACT),
    ("sdxl", "plp", "cpu"): ("fp32", True, 2, 2, 32, 512, SMALL),
    ("sdxl", "full", 8): ("bf16", True, 4, 1, 32, 512, BLOCKS),
    ("sdxl", "full", 12): ("bf16", True, 4, 1, 32, 1024, WHOLE),
    ("sdxl", "full", 16): ("bf16", True, 4, 1, 64, 1024, WHOLE),
    ("sdxl", "full", 24): ("fp32", True, 4, 1, 64, 1024, WHOLE),
    ("sdxl", "full", 48): ("fp32", True, 4, 1, 64, 1024, WHOLE),
    ("sdxl", "full", "cpu"): ("fp32", True, 4, 1, 32, 512, BLOCKS),
}


def settings_for(preset: str, method: str, memory: int | str) -> dict[str, Any]:
    """The settings of a row, as tables of a project file.

    Args:
        preset: "sd15" or "sdxl".
        memory: one of `BUDGETS`.
    """
    settings: dict[str, Any] = {}
    for key, value in zip(COLUMNS, ROWS[preset, method, memory], strict=True):
        table, _, name = key.rpartition(".")
        (settings.setdefault(table, {}) if table else settings)[name] = value
    settings["steps"]["others_batch_size"] = settings["steps"]["batch_size"]
    return settings


def found_budget() -> int | str:
    """The largest budget that the GPU at hand has, or "cpu".

    Raises:
        UserError: the GPU has less than the smallest.
    """
    import torch  # only where "auto" asks: project files are read without it

    if not torch.cuda.is_available():
        return "cpu"
    # A GPU sold as one of 12 GB reports a little less or more.
    has = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    fitting = [budget for budget in BUDGETS if budget != "cpu" and budget <= has + 0.5]
    if not fitting:
        raise UserError(
            f'memory is "auto", and the GPU has {has:.1f} GB',
            f"Set memory to {BUDGETS[0]} to try it all the same, or leave memory out",
        )
    return max(fitting)
