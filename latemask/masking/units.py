"""What is hidden together: tokens, words or spans (masking.unit)."""

import jax
import jax.numpy as jnp

from latemask.data.tokenizers import specials


def _token_units(key, ids_L, plan):
  del key, plan
  return jnp.ones(ids_L.shape, bool)


def _word_units(key, ids_L, plan):
  del key
  starts_V = jnp.asarray(plan.word_start_V)
  before_L = jnp.concatenate([jnp.zeros(1, ids_L.dtype), ids_L[:-1]])
  # What follows a special token starts a word, whatever it is.
  return (starts_V[ids_L] | (ids_L < specials.NUM_SPECIALS)
          | (before_L < specials.NUM_SPECIALS))


def _span_units(key, ids_L, plan):
  """Geometric lengths of mean `span_length` (SpanBERT), cut at the maximum."""
  special_L = ids_L < specials.NUM_SPECIALS
  before_L = jnp.concatenate([jnp.ones(1, bool), special_L[:-1]])
  start_L = special_L | before_L | (
      jax.random.uniform(key, ids_L.shape) < 1 / plan.span_length)
  index_L = jnp.arange(ids_L.shape[0])
  since_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return start_L | (since_L % plan.max_span_length == 0)


UNITS = {"token": _token_units, "word": _word_units, "span": _span_units}
