"""The studio's pages, one for each thing a person does. Each has a `build` that returns what others wire to."""

# What takes no time goes past the queue: its event stream closes after the last event, and one that is sent in that
# moment is never answered. Only drawing waits in line.
QUICK = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
