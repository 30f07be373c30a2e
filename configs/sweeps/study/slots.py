"""S3: what in late masks matters.

One, two and four late layers; and a slot that is the mask's row of the word
embedding instead of a vector of its own.
"""

from configs.sweeps import study


get_config = study.get_config


def sweep(config):
  """Yields the overrides of each point."""
  del config
  late = study.LATE_50 | {"train.mask_vector": "own"}
  yield from study.points([
      late, late | {"train.mask_vector": "embedding"},
      *(late | {"model.layers": study.ENCODER + layers} for layers in (1, 4))],
                          seeds=(1, 2))


def columns():
  """Returns the keys worth plotting."""
  return ["model.layers", "train.mask_vector"]
