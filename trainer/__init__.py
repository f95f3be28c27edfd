"""A dataset in; a trained, evaluated classifier and its predictions out. One loop, pure functions around it."""
