"""Keys that came later, each with the value that means "as before".

One table for everything that is read back from disk and may be older than
this code: the config of a workdir or a checkpoint, latemask.json of an
exported folder. Nothing old breaks, and nothing changes its meaning unseen.
"""

from latemask import errors

# Format of checkpoints and of exported folders; a higher one is not ours.
FORMAT = 1

# Dotted key -> the value that does what was done before the key was there.
BEFORE = {"data.documents": "lines", "data.eval_source": None,
          "masking.word_starts": "spaces", "eval.masks": "seeded"}
# Those of them whose default does something else. A run that was begun before
# goes on with the value above, whatever the config says.
KEPT = ("masking.word_starts", "eval.masks")


def fill(found, wanted):
  """Returns what was written, with the keys that it is too old to have.

  Args:
    found: {dotted key: value} as it was written.
    wanted: the keys that there are today; no other is added.
  """
  return {key: BEFORE[key] for key in wanted
          if key in BEFORE and key not in found} | dict(found)


def kept(found, now):
  """Returns {key: value} with which what was begun before a key goes on.

  Args:
    found: {dotted key: value} as it was written.
    now: the same as it is wanted now.
  """
  return {key: BEFORE[key] for key in KEPT
          if key in now and key not in found and now[key] != BEFORE[key]}


def check_format(record, where):
  """Refuses what a later version has written.

  Raises:
    InputError: the record's `format` is higher than ours.
  """
  found = record.get("format", FORMAT)
  if found != FORMAT:
    raise errors.InputError(
        f"{where} has the format {found}, and this version reads {FORMAT}; "
        "it was written by a later one")
