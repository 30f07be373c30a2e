"""What is hidden together: tokens, words or spans (masking.unit)."""

import jax
import jax.numpy as jnp

def _token_units(key, ids_L, plan):
  del key, plan
  return jnp.ones(ids_L.shape, bool)


def _word_units(key, ids_L, plan):
  del key
  starts_V = jnp.asarray(plan.vocabulary.word_start_V)
  # What follows a special token starts a word, whatever it is.
  return starts_V[ids_L] | _at_or_behind_special(ids_L, plan)


def _span_units(key, ids_L, plan):
  """Geometric lengths of mean `span_length` (SpanBERT), cut at the maximum."""
  start_L = _at_or_behind_special(ids_L, plan) | (
      jax.random.uniform(key, ids_L.shape) < 1 / plan.span_length)
  index_L = jnp.arange(ids_L.shape[0])
  since_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return start_L | (since_L % plan.max_span_length == 0)



def _at_or_behind_special(ids_L, plan):
  special_L = plan.vocabulary.is_special(ids_L)
  before_L = jnp.concatenate([jnp.ones(1, bool), special_L[:-1]])
  return special_L | before_L


UNITS = {"token": _token_units, "word": _word_units, "span": _span_units}
