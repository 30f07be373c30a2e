"""Global attention by splash, JAX's Pallas kernel for TPUs: `splash`.

Blocks of queries meet blocks of keys in the chip's own memory, so that no
scores are stored, forwards or backwards. Lengths are padded to whole blocks of
128 tokens, and a run prints what that costs. Under a mesh each device runs the
kernel on its rows and heads. Letters: attention_kinds.py.
"""

import jax
from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from latemask.model import parts
from latemask.runtime import mesh

# Lengths are padded to a multiple of the lanes of a TPU: no block is smaller.
MULTIPLE = 128
# Tokens of a block: the first that divides the padded length.
_BLOCKS = (512, 384, 256, MULTIPLE)


def attend(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS,
           interpret=False):
  """Returns what each query mixes of the values, [B, Q, H, h].

  Args:
    q_BxQxHxh: scaled already.
    segment_BxQ, segment_BxS: queries see keys where these are equal.
    interpret: on any platform, slowly, for tests.
  """
  queries = q_BxQxHxh.shape[1]
  padded = tuple(parts.padded(x.shape[1], MULTIPLE)
                 for x in (q_BxQxHxh, k_BxSxHxh))
  blocks = _block_sizes(*padded)

  def of_device(q, k, v, segment_q, segment_k):
    kernel = splash_lib.make_splash_mha(
        splash_lib.MultiHeadMask(
            [splash_lib.FullMask(padded)] * q.shape[1]),
        block_sizes=blocks, head_shards=1, q_seq_shards=1,
        residual_checkpoint_name="mixed", interpret=interpret)
    return jax.vmap(kernel)(
        q, k, v, splash_lib.SegmentIds(segment_q, segment_k))

  heads, tokens = P(mesh.BATCH_AXES, "tensor"), P(mesh.BATCH_AXES)
  mixed_BxHxQxh = mesh.per_device(
      of_device, (heads, heads, heads, tokens, tokens), heads)(
          *(parts.pad(jnp.swapaxes(x, 1, 2), 2, MULTIPLE)
            for x in (q_BxQxHxh, k_BxSxHxh, v_BxSxHxh)),
          *(parts.pad(x, 1, MULTIPLE, parts.NOWHERE)
            for x in (segment_BxQ, segment_BxS)))
  return jnp.swapaxes(mixed_BxHxQxh[:, :, :queries], 1, 2)


def _block_sizes(queries, keys):
  """Returns those of the three kernels: forward, to q, and to k and v."""
  q, k = (next(b for b in _BLOCKS if not length % b)
          for length in (queries, keys))
  return splash_lib.BlockSizes(
      block_q=q, block_kv=k, block_kv_compute=k, block_q_dkv=q, block_kv_dkv=k,
      block_kv_dkv_compute=k, block_q_dq=q, block_kv_dq=k)
