"""Class folders of images to a versioned, sharded, TFDS-readable dataset. The files, in the order the data takes:

settings -> sources -> inspection -> identity -> splits -> layout -> shards -> ledger -> publish; `graph` joins them.
"""
