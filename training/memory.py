"""What suits the memory at hand: `memory = 12` in a project file, a row of its method's table under what the file says.

Every row of a base learns from the same number of pictures a step, batch size times accumulation, so that less memory
means more time and not another run. Peaks: benchmarks/optimizers/results/peak.json, everything that is loaded included,
below the gigabytes of the row less 0.5 for the driver.
"""

from typing import Any

from pipelines.errors import UserError
from training.families import FAMILIES

BUDGETS = (8, 12, 16, 24, 48, "cpu")  # gigabytes of a GPU, or none
COLUMNS = (
    "precision",
    "steps.gradient_checkpointing",
    "steps.batch_size",
    "steps.accumulation",
    "adapter.rank",
    "resolution",
    "optimizer",
)
ROWS: dict[tuple, tuple] = {  # (preset, adapter.method, memory): each family has its own for each method
    (family.preset, method, budget): row
    for family in FAMILIES.values()
    for method, rows in family.memory.items()
    for budget, row in rows.items()
}


def settings_for(preset: str, method: str, memory: int | str) -> dict[str, Any]:
    """The settings of a row, as tables of a project file.

    Args:
        preset: of a family, not the embedded base's.
        memory: one of `BUDGETS`.
    Raises:
        UserError: nobody has measured that base with that method.
    """
    if (preset, method, memory) not in ROWS:
        raise UserError(
            f"memory is {memory!r}, but what bases with the preset {preset!r} take is not measured yet",
            "Leave memory out, and set steps.batch_size, steps.gradient_checkpointing and precision",
        )
    settings: dict[str, Any] = {}
    for key, value in zip(COLUMNS, ROWS[preset, method, memory], strict=True):
        table, _, name = key.rpartition(".")
        (settings.setdefault(table, {}) if table else settings)[name] = value
    settings["steps"]["others_batch_size"] = settings["steps"]["batch_size"]
    return settings


def without_bf16(settings: dict[str, Any], method: str) -> dict[str, Any]:
    """The settings of a row for a card without bf16: fp16, which is as small.

    Raises:
        UserError: the base's own weights are to learn, which fp16 cannot hold.
    """
    if settings["precision"] != "bf16":
        return settings
    if method == "full":
        raise UserError(
            'memory is "auto", and the GPU has no bf16, in which a base\'s own weights would fit it',
            'Set adapter.method to "plp", or leave memory out',
        )
    return settings | {"precision": "fp16"}


def card_has_bf16() -> bool:
    """Whether the GPU at hand computes in it: NVIDIA's do from Ampere on; T4, V100 and RTX 20 emulate it, slowly."""
    import torch

    return torch.cuda.get_device_capability() >= (8, 0)


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
    fitting = [budget for budget in BUDGETS if isinstance(budget, int) and budget <= has + 0.5]
    if not fitting:
        raise UserError(
            f'memory is "auto", and the GPU has {has:.1f} GB',
            f"Set memory to {BUDGETS[0]} to try it all the same, or leave memory out",
        )
    return max(fitting)
