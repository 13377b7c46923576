"""The recipes: tiny for tests (seconds), small for two cores (about two hours), full for one GPU (under an hour).

A denoiser also has longer, which a model that small has made goes on with (two cores, under an hour). With composing
both parts go on, with the computed styles as half of what they see.
"""

from dataclasses import replace

from training.base.autoencoder import AutoencoderRecipe
from training.base.denoiser import DenoiserRecipe
from training.base.judge import JudgeRecipe
from training.base.learning import Schedule

JUDGES = {
    "tiny": {
        "judge": JudgeRecipe("residual", (8, 16), Schedule(40, 16, save_every=20), seed=1, lr=1e-2),
        "judge-2": JudgeRecipe("pooled", (16, 16, 32), Schedule(40, 16, save_every=20), seed=2, lr=1e-2),
    },
    "small": {
        "judge": JudgeRecipe("residual", (32, 64, 128, 192), Schedule(2000, 128, average=0.99), seed=1),
        "judge-2": JudgeRecipe("pooled", (64, 96, 160, 160, 224), Schedule(1000, 128, average=0.99), seed=2, lr=1e-3),
    },
}
JUDGES["full"] = JUDGES["small"]  # ten minutes of two cores are enough for both

AUTOENCODERS = {
    "tiny": AutoencoderRecipe((8, 8, 8), Schedule(6, 6, save_every=3, sheet_every=3), Schedule(4, 6), crop=16),
    "small": AutoencoderRecipe((32, 64, 128), Schedule(1445, 48, average=0.998), Schedule(1482, 48, average=0.998)),
    "composing": AutoencoderRecipe(
        (32, 64, 128), Schedule(0, 48), Schedule(1200, 48, average=0.995), channels=4, computed=0.5
    ),
    "full": AutoencoderRecipe((48, 96, 160), Schedule(6000, 96, average=0.999), Schedule(6000, 96, average=0.999)),
}
DENOISERS = {
    "tiny": DenoiserRecipe((8, 16), 16, Schedule(6, 4, save_every=3, sheet_every=6), pieces=600),
    "small": DenoiserRecipe((48, 96, 160), 128, Schedule(3300, 64)),
    "longer": DenoiserRecipe((48, 96, 160), 128, Schedule(4000, 64), "all", split_share=0.5, noisy=0.6),
    "composing": DenoiserRecipe(
        (48, 96, 160),
        128,
        Schedule(1200, 48, average=0.995, save_every=50),
        "all",
        split_share=0.5,
        computed=0.5,
        unknown=0.3,
        noisy=0.6,
        lr=1e-3,
    ),
    "unknown-words": DenoiserRecipe(
        (48, 96, 160), 128, Schedule(300, 32, average=0.98, save_every=50), "all", 0.5, unknown=0.3, lr=5e-4, noisy=0.6
    ),
    "full": DenoiserRecipe((64, 128, 224), 192, Schedule(24000, 128, average=0.999), contents="all"),
}
# What composing has made goes on with longer steps and a longer plateau (one core, an hour).
DENOISERS["composing-longer"] = replace(
    DENOISERS["composing"], schedule=Schedule(2400, 96, hold=0.5, save_every=50), seed=1
)
