"""A trained run in; a versioned folder with its model in several formats out, each compared with the trainer."""
