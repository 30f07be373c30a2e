"""The ways in which global attention is computed: the table `model.attention`.

All are the same function to rounding: queries see the keys of their segment.
  xla      scores whole, [B, H, Q, S]
  chunked  queries in blocks, chunked.py: memory linear in S. Dropout (of the
           kind hash) drops the same weights as xla does
  splash   a kernel for TPUs, splash.py: no scores in memory, and no dropout
  splash_interpret
           the same on any platform, slowly: for tests
  cudnn    a kernel for GPUs, cudnn.py: no dropout, either
  auto     by platform, length, dtype and dropout, see `choose`
Letters: B batch, Q queries, S keys, H heads, h size of a head, C queries of a
block.
"""

import dataclasses
import math
from typing import Callable

import jax
import jax.numpy as jnp

from latemask import errors
from latemask.model import chunked
from latemask.model import cudnn
from latemask.model import parts
from latemask.model import products
from latemask.model import splash
from latemask.runtime import mesh

# With fewer scores of a row and head `auto` takes no splash, and no chunks.
_SPLASH = 512 * 512
_CHUNKED = 1024 * 1024


def xla(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop):
  """Returns what each query mixes of the values, [B, Q, H, h].

  Args:
    q_BxQxHxh: scaled already.
    segment_BxQ, segment_BxS: queries see keys where these are equal.
    drop: function of the weights, a `parts.Drop`.
  """
  scores_BxHxQxS = parts.scores(
      q_BxQxHxh, k_BxSxHxh, segment_BxQ, segment_BxS)
  weights_BxHxQxS = jax.nn.softmax(scores_BxHxQxS).astype(v_BxSxHxh.dtype)
  return products.einsum(
      "bhqs,bshk->bqhk", drop(weights_BxHxQxS), v_BxSxHxh)


def choose(platform, queries, keys, dtype, drops):
  """Returns the name of the kind that `auto` takes.

  Splash for 512 tokens and more on a TPU, where it computes the same (no
  dropout of weights, and bfloat16); otherwise chunks for 1,024 tokens and more,
  and whole scores for fewer. Tokens: the root of queries times keys. On a GPU
  cudnn must be asked for: it has been measured on one chip alone.

  Args:
    platform: cpu, gpu or tpu.
    drops: whether weights are dropped.
  """
  scores = queries * keys
  if (platform == KINDS["splash"].platform and dtype == jnp.bfloat16
      and not drops and scores >= _SPLASH):
    return "splash"
  return "chunked" if scores >= _CHUNKED else "xla"


def _auto(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop):
  kind = choose(mesh.platform(), q_BxQxHxh.shape[1], k_BxSxHxh.shape[1],
                q_BxQxHxh.dtype, drop.key is not None)
  return KINDS[kind].attend(
      q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop)


def _without_dropout(attend, **options):
  return lambda *arrays_and_drop: attend(*arrays_and_drop[:-1], **options)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A row of the table.

  Fields:
    attend: as `xla`.
    platform: the only one that it runs on; None: any.
    is_fused: it is one kernel, which knows no dropout.
    instead: what a message advises on another platform.
    head_sizes: of a head; None: any.
    multiple: of tokens, to which lengths are padded.
  """

  attend: Callable
  platform: str | None = None
  is_fused: bool = False
  instead: str = "auto"
  head_sizes: range | None = None
  multiple: int = 1


KINDS = {
    "xla": Kind(xla),
    "chunked": Kind(chunked.attend),
    "splash": Kind(_without_dropout(splash.attend), "tpu", True,
                   "auto (or, for a test, splash_interpret)",
                   multiple=splash.MULTIPLE),
    "splash_interpret": Kind(
        _without_dropout(splash.attend, interpret=True), is_fused=True,
        multiple=splash.MULTIPLE),
    "cudnn": Kind(_without_dropout(cudnn.attend), "gpu", True,
                  head_sizes=cudnn.HEAD_SIZES, multiple=cudnn.MULTIPLE),
    "auto": Kind(_auto),
}


def wasted(config, sizes, platform):
  """Yields what padding costs: (size, that with padding, lost scores).

  Lost is the share of the scores of the latter that is not of the former.

  Args:
    config: a `ModelConfig`.
    sizes: (queries, keys) of each, as of `flops.global_attentions`.
    platform: cpu, gpu or tpu.
  """
  for size in sizes:
    kind = config.attention
    if kind == "auto":
      kind = choose(platform, *size, config.layer.dtype,
                    config.attention_dropout > 0)
    padded = tuple(parts.padded(n, KINDS[kind].multiple) for n in size)
    if padded != size:
      yield size, padded, 1 - math.prod(size) / math.prod(padded)


def check(config, platform):
  """Checks that a model's attention can be computed as it is asked for.

  Args:
    config: a `ModelConfig`.
    platform: cpu, gpu or tpu.

  Raises:
    InputError: it is a kernel for another platform, or one that cannot do what
      the model does.
  """
  kind = KINDS[config.attention]
  if kind.platform not in (None, platform):
    raise errors.InputError(
        f"model.attention {config.attention} runs on a {kind.platform.upper()},"
        f" and there is a {platform.upper()} here; take {kind.instead}")
  if kind.is_fused and config.attention_dropout:
    raise errors.InputError(
        f"model.attention {config.attention} cannot drop attention weights: "
        f"set model.attention_dropout {config.attention_dropout} to 0, or take "
        "chunked")
  if kind.platform and config.dtype != "bfloat16":
    raise errors.InputError(
        f"model.attention {config.attention} multiplies in bfloat16, and "
        f"model.dtype is {config.dtype}; take chunked, or bfloat16")
  size = config.width // config.heads
  if kind.head_sizes and size not in kind.head_sizes:
    raise errors.InputError(
        f"model.width {config.width} / model.heads {config.heads} is {size}; "
        f"model.attention {config.attention} takes heads of a multiple of "
        f"{kind.head_sizes.step}, at most {kind.head_sizes[-1]}")
