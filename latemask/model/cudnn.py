"""Global attention by cuDNN, on GPUs: `cudnn`, through jax.nn.

Who sees whom is told as a mask of [B, 1, Q, S], which XLA makes into an added
bias, and of which cuDNN makes a gradient that nobody reads (JAX 0.10): memory
stays quadratic in the length, a head's share of what `xla` takes. The kernel
knows segments only of rows that lie in one piece each, and kept tokens with
slots behind them do not. It has no dropout here. Source of the demands: JAX
0.10.2, jax/_src/cudnn/fused_attention_stablehlo.py. Run on one H100 so far,
with JAX 0.11.2 (latemask/bench/README.md). Letters: attention_kinds.py.
"""

import jax

from latemask.model import parts

# Sizes of heads that it takes on GPUs from A100 on.
HEAD_SIZES = range(8, 129, 8)
# Lengths are padded to a multiple of this: with a bias it takes no odd ones,
# and rows of it are then aligned to 16 bytes.
MULTIPLE = 8


def attend(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS,
           implementation="cudnn"):
  """Returns what each query mixes of the values, [B, Q, H, h].

  Args:
    q_BxQxHxh: scaled already.
    segment_BxQ, segment_BxS: queries see keys where these are equal.
    implementation: jax.nn's; "xla" is the same call without a GPU, for tests.
  """
  q, k, v = (parts.pad(x, 1, MULTIPLE)
             for x in (q_BxQxHxh, k_BxSxHxh, v_BxSxHxh))
  segment_q, segment_k = (parts.pad(x, 1, MULTIPLE, parts.NOWHERE)
                          for x in (segment_BxQ, segment_BxS))
  mixed = jax.nn.dot_product_attention(
      q, k, v, mask=parts.sees(segment_q, segment_k),
      scale=1.0, implementation=implementation)
  return mixed[:, :q_BxQxHxh.shape[1]]
