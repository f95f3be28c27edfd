"""Everything that can be given as --input: class folders, split folders, listings, TFDS datasets."""

from preprocess.inputs.opening import find_classes, open_inputs
from preprocess.inputs.source import REASONS, Classes, Hidden, Input, Rejected, Source

__all__ = ["REASONS", "Classes", "Hidden", "Input", "Rejected", "Source", "find_classes", "open_inputs"]
