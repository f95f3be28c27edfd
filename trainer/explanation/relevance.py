"""What each place of an image adds to a class's score in; a heatmap out."""

from __future__ import annotations

import tensorflow as tf


def heatmap(evidence: tf.Tensor) -> tf.Tensor:
    """Keeps what speaks for the class, and divides it by its maximum in each map.

    What speaks against the class is cut off, as Grad-CAM does, section 3 (https://arxiv.org/abs/1610.02391): it belongs
    to other classes. So a map says where in its image the evidence is, relative to the strongest place, and not how
    much of it there is: two images' maps can't be compared, a confidence can.

    Args:
      evidence: floating [n, h, w], larger where more speaks for the class, negative where it speaks against it.

    Returns:
      float32 [n, h, w] in 0..1. The maximum of a map is 1; or all of it is 0, where nothing speaks for the class, and
      what was predicted then rests on its bias and on the other classes being less likely still.
    """
    positive = tf.nn.relu(tf.cast(evidence, tf.float32))
    return tf.math.divide_no_nan(positive, tf.reduce_max(positive, axis=[1, 2], keepdims=True))
