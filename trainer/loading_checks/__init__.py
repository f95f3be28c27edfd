"""A model file that may come from anybody in; nothing out, or one line that says why it is not opened."""
