"""One Python file per experiment, all typed by `schema.py`."""
