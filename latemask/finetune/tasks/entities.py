"""Entities in tags of words: B-PER I-PER O.

A tag begins (B-) or goes on with (I-) an entity of a type, or is O. Read as
conlleval reads them: an I- that goes on with nothing begins an entity.
"""

OUTSIDE = "O"


def are_bio(tags):
  """Returns whether each of some different tags is O, B-TYPE or I-TYPE.

  Parts of speech and the like are not.
  """
  return any(tag != OUTSIDE for tag in tags) and all(
      tag == OUTSIDE or tag[:2] in ("B-", "I-") and tag[2:] for tag in tags)


def odd(tags):
  """Returns the first tag that others, which begin entities, make doubtful.

  None where there is none. Other schemes have other letters before the -, such
  as S- and E-.
  """
  if not any(tag[:2] == "B-" and tag[2:] for tag in tags):
    return None
  return next((tag for tag in tags if tag != OUTSIDE and not (
      tag[:1].isupper() and tag[1:2] == "-" and tag[2:])), None)


def wrong(tags):
  """Returns what is wrong with the tags of a row, in words; None if nothing."""
  for before, tag in zip([OUTSIDE, *tags], tags):
    if tag[:2] == "I-" and before[2:] != tag[2:]:
      return (f"the tag {tag} follows {before}, and goes on with nothing; an "
              "entity begins with B-")
  return None


def spans(tags):
  """Returns the entities of a row: [(type, first word, the word behind)]."""
  found = []
  for place, tag in enumerate(tags):
    goes_on = tag[:2] == "I-" and found and found[-1][0] == tag[2:] and (
        found[-1][2] == place)
    if goes_on:
      found[-1] = (*found[-1][:2], place + 1)
    elif tag != OUTSIDE:
      found.append((tag[2:], place, place + 1))
  return found
