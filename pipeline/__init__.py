"""Shards to batches. Owns the record, the manifest, the image rules and the storage that both neighbours share."""
