"""Trains a project as one of several processes: PROJECT RUN STEPS after which to stop."""

import sys
from pathlib import Path

from training import Customization, customize

project, run, steps = sys.argv[1:]
done = []
config = Customization.load(Path(project))
customize(config, run, lambda entry: done.append(entry["step"]), lambda: int(steps) in done)
