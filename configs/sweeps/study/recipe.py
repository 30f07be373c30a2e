"""S4: Muon, phases of the mask rate, an average of the parameters.

Muon at two learning rates; phases with AdamW, at the input and late. Every run
carries an average beside its parameters.
"""

from configs.sweeps import study


get_config = study.get_config


_PHASES = {"at_input": ((0.3, 0.6), (0.15, 0.4)),
           "late": ((0.5, 0.5), (0.3, 0.3), (0.15, 0.2))}


def sweep(config):
  """Yields the overrides of each point."""
  del config
  base = {"optimizer.name": "adamw", "optimizer.learning_rate": 2e-3,
          "masking.phases": ()}
  runs = [base | run | {"optimizer.name": "muon",
                        "optimizer.learning_rate": rate}
          for run in (study.INPUT_15, study.INPUT_50, study.LATE_50)
          for rate in (2e-3, 4e-3)]
  runs += [base | study.place(0.5, study.ENCODER, 9) | {
      "optimizer.name": "muon", "optimizer.learning_rate": 4e-3}]
  runs += [base | study.INPUT_15 | {"masking.phases": _PHASES["at_input"]},
           base | study.LATE_50 | {"masking.phases": _PHASES["late"]},
           base | study.LATE_50 | {"masking.phases": _PHASES["late"],
                                   "optimizer.name": "muon"}]
  for point in study.points(runs, seeds=(1, 2)):
    yield point | {"train.average_share": 0.05}


def columns():
  """Returns the keys worth plotting."""
  return ["optimizer.name", "optimizer.learning_rate", "masking.phases", "masking.rate", "model.insertion_layer"]
