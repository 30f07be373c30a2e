"""A picture of which token enters at which layer, and of what is guessed."""

import flax.traverse_util
import jax
from matplotlib import figure
from matplotlib import patches
import ml_collections
import numpy as np

from latemask.config import keys
from latemask import errors
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.predict import fill_mask
from latemask.report import look as look_lib

_MAX_TOKENS = 40
# The rule for a model that comes without one.
_HALF = {"rate": 0.5, "unit": "token", "random_rate": 0.0, "same_rate": 0.0,
         "predict_rate": None, "span_length": 1.0, "max_span_length": 1}
_CELL_INCHES, _LAYER_INCHES = 0.27, 0.2
_COLORS = {"kept": look_lib.COLORS[6], "mask slot": look_lib.COLORS[5],
           "random or same word, predicted, too": look_lib.COLORS[3]}
_KEPT, _SLOT, _NOISE = _COLORS
_PALE = 0.3


def kinds(masked):
  """Returns what each token of the first row is: a key of `_COLORS`, or None.

  None are tokens that are hidden and not predicted: no layer knows of them.
  """
  num_kept = masked.kept_ids_BxK.shape[1]
  num_slots = masked.slot_position_BxQ.shape[1]
  found = [_KEPT if place < num_kept
           else _SLOT if place < num_kept + num_slots else None
           for place in masked.place_BxL[0]]
  for index in targets(masked):
    if found[index] == _KEPT:
      found[index] = _NOISE
  return found


def targets(masked):
  """Returns where the first row's targets stand in it."""
  return masked.target_index_BxT[0][masked.target_weights_BxT[0] > 0]


def computed(config, masked):
  """Returns what each layer does with the tokens of the first row.

  Args:
    config: an `architecture.ModelConfig`.

  Returns:
    [layers, L]: 2 where a layer computes a state, 1 where it only reads one,
    0 where it sees nothing.
  """
  kind_L = kinds(masked)
  kept_L = np.array([kind in (_KEPT, _NOISE) for kind in kind_L])
  slot_L = np.array([kind == _SLOT for kind in kind_L])
  target_L = np.zeros(len(kind_L), bool)
  target_L[targets(masked)] = True
  of_layer_NxL = []
  for layer in range(config.layers):
    if layer < config.insertion_layer:
      read_L, wanted_L = kept_L, kept_L
    elif config.decoder == "self":
      read_L, wanted_L = kept_L | slot_L, kept_L | slot_L
    else:
      read_L, wanted_L = kept_L, {
          "targets": target_L,
          "all": kept_L | slot_L}[config.decoder_queries]
    # Of the last layer nothing but the targets is used; a local one computes
    # all tokens, wherever it stands.
    if layer == config.layers - 1 and not config.local_layers[-1]:
      wanted_L = target_L
    of_layer_NxL.append(np.where(wanted_L, 2, read_L.astype(int)))
  return np.stack(of_layer_NxL)


def mask(rule, tokenizer, text, seed):
  """Returns (ids of a text, its `Masked` under a run's rule).

  Args:
    rule: `masking` of a `pretrained.Pretrained`.

  Raises:
    InputError: it is too long to be drawn, or too short to be masked.
  """
  ids_L = tokenizer.template.row(tokenizer.encode([text]))[0]
  if len(ids_L) > _MAX_TOKENS:
    raise errors.InputError(
        f"a text of {len(ids_L)} tokens is too long to be drawn; give one of "
        f"at most {_MAX_TOKENS}")
  rule = keys.fill({f"masking.{key}": value for key, value in (
      rule or _HALF).items()}, keys.BEFORE)
  config = ml_collections.ConfigDict(flax.traverse_util.unflatten_dict(
      rule | {"data.length": len(ids_L)}, sep="."))
  plan = plan_lib.make_plan(
      config, tokenizer.vocabulary(config.masking.word_starts))
  return ids_L, jax.device_get(selection.mask_batch(
      plan, jax.random.key(seed), np.zeros(1, np.int32), ids_L[None]))


def draw(config, masked, names, guesses):
  """Returns the figure.

  Args:
    config: an `architecture.ModelConfig`.
    names: [L] the tokens as text.
    guesses: {place: (word, whether it is right)}.
  """
  kind_L, state_NxL = kinds(masked), computed(config, masked)
  layers, length = state_NxL.shape
  fig = figure.Figure(
      (max(4.2, length * _CELL_INCHES + 0.9), layers * _LAYER_INCHES + 2.25),
      layout="constrained")
  ax = fig.subplots()
  _draw_states(ax, kind_L, state_NxL)
  ax.axhline(config.insertion_layer - 0.5, color="0.3", linewidth=0.7,
             linestyle=(0, (4, 2)))
  for place, (word, is_right) in guesses.items():
    ax.text(place, layers - 0.3, word, rotation=90, ha="center", va="bottom",
            fontweight="bold" if is_right else "normal", parse_math=False)
  ax.text(-1.0, layers - 0.3, "guess", ha="right", va="bottom")
  ax.set_xlim(-0.7, length - 0.3)
  ax.set_ylim(-0.6, layers - 0.4)
  ax.set_xticks(range(length), names, rotation=90)
  for label, kind in zip(ax.get_xticklabels(), kind_L):
    label.set_color("black" if kind == _KEPT else "0.6")
    label.set_parse_math(False)  # "$$" is a token.
  # Counted from 0, as model.insertion_layer counts them.
  ax.set_yticks(range(layers))
  ax.set_ylabel("layer")
  ax.tick_params(length=0)
  ax.grid(False)
  for spine in ax.spines.values():
    spine.set_visible(False)
  share = (state_NxL == 2).sum() / (layers * length)
  handles = _legend(kind_L, (state_NxL == 1).any())
  fig.legend(handles=handles, loc="outside lower center", ncols=len(handles),
             handlelength=1.2, columnspacing=1.2)
  fig.suptitle(f"{share:.0%} of the states are computed\n"
               f"{config.where_masks_join}", fontsize=8)
  return fig


def _draw_states(ax, kind_L, state_NxL):
  """Draws a box for each state that a layer computes or reads."""
  for layer, place in np.argwhere(state_NxL):
    ax.add_patch(patches.FancyBboxPatch(
        (place - 0.38, layer - 0.36), 0.76, 0.72,
        boxstyle="round,pad=0,rounding_size=0.15", linewidth=0,
        facecolor=_COLORS[kind_L[place]],
        alpha=1 if state_NxL[layer, place] == 2 else _PALE))


def _legend(kind_L, has_read):
  handles = [patches.Patch(color=color, label=kind)
             for kind, color in _COLORS.items() if kind in kind_L]
  if has_read:
    handles.append(patches.Patch(
        color=_COLORS[_KEPT], alpha=_PALE, label="read, not computed"))
  return handles


def guesses(filler, ids_L, masked):
  """Returns {place: (word, whether it is right)} of the targets."""
  best_T = np.argmax(filler.probabilities(masked), axis=-1)
  return {int(place): (filler.word(best).removeprefix(fill_mask.JOINED),
                       best == ids_L[place])
          for place, best in zip(
              targets(masked), best_T[masked.target_weights_BxT[0] > 0])}
