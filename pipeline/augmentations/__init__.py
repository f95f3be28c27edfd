"""One image (or a batch, for mixing) and a seed in, the same shape and dtype out: what training shows in other ways."""
