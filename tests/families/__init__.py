"""Every stock class that carries a guidance rule, as a tiny real pipeline: a new family adds its cases here."""

from tests.families import flows, moving, stable_diffusion, stages, transformers

CASES = [*stable_diffusion.CASES, *flows.CASES, *transformers.CASES, *stages.CASES, *moving.CASES]
