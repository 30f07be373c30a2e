"""The reader of compiled text, on a text whose answer is known."""

import pytest

from latemask.bench import hlo

# A loop of 5 around a fused product and a reduction; a batched product that
# XLA for TPU writes as a dilated convolution; a gathered result.
TEXT = """HloModule made_by_hand

%fused_product (a: bf16[8,16], b: bf16[16,32]) -> bf16[8,32] {
  %a = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[16,32]{1,0} parameter(1)
  ROOT %convolution.1 = bf16[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%cond (p: (s32[], bf16[8,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %p = (s32[]{:T(128)}, bf16[8,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], bf16[8,32])) -> (s32[], bf16[8,32]) {
  %p = (s32[]{:T(128)}, bf16[8,32]{1,0}) parameter(0)
  %x = bf16[8,16]{1,0} constant({...})
  %w = bf16[16,32]{1,0} constant({...})
  %y = bf16[8,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused_product
  %all-reduce.1 = (bf16[8,32]{1,0}, /*index=1*/f32[4]{0}) all-reduce(%y, %z), to_apply=%add
  ROOT %t = (s32[]{:T(128)}, bf16[8,32]{1,0}) tuple(%i, %y)
}

ENTRY %main (q: bf16[2,3,4,5], k: bf16[2,3,6,5]) -> f32[2,3,4,6] {
  %q = bf16[2,3,4,5]{3,2,1,0} parameter(0)
  %k = bf16[2,3,6,5]{3,2,1,0} parameter(1)
  %t = (s32[]{:T(128)}, bf16[8,32]{1,0}) tuple(%zero, %start)
  %while.1 = (s32[]{:T(128)}, bf16[8,32]{1,0:T(8,128)(2,1)S(1)}) while(%t), condition=%cond, body=%body, metadata={op_name="a/while"}
  %ag = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%v), dimensions={0}
  %ag.done = f32[8,8]{1,0} all-gather-done(%ag)
  %dot.1 = f32[7,9]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %l = f32[7,10]{1,0} parameter(2)
  %r = f32[10,9]{1,0} parameter(3)
  ROOT %scores = f32[2,3,4,6]{3,2,1,0} convolution(%q, %k), window={size=2x3 stride=1x2 lhs_dilate=2x3}, dim_labels=01bf_01oi->01bf
}
"""

PRODUCT = 2 * 8 * 16 * 32
DOT = 2 * 7 * 9 * 10
SCORES = 2 * 2 * 3 * 4 * 6 * 5


def test_loops_are_counted_out():
  assert hlo.matmul_flops(TEXT) == 5 * PRODUCT + DOT + SCORES
  assert hlo.matmul_flops(TEXT, count_loops=False) == PRODUCT + DOT + SCORES


def test_collectives():
  assert hlo.collectives(TEXT) == {
      "all-reduce": {"count": 5, "bytes": 5 * (8 * 32 * 2 + 4 * 4)},
      "all-gather": {"count": 1, "bytes": 8 * 8 * 4}}


def test_a_collective_that_goes_on_is_one():
  text = TEXT.replace("all-gather-start(%v), dimensions={0}", (
      "all-gather-start(%v), channel_id=1, dimensions={0}, "
      'frontend_attributes={chain_id="0"}'))
  again = next(line for line in text.splitlines() if "chain_id" in line)
  assert hlo.collectives(text.replace(
      again, again + "\n" + again.replace("%ag ", "%ag.2 "))) == (
          hlo.collectives(TEXT))


def test_shapes():
  assert ("bf16", (2, 3, 6, 5)) in hlo.shapes(TEXT)
  assert ("f32", (7, 9)) in hlo.shapes(TEXT)
  assert all(dtype != "T" for dtype, _ in hlo.shapes(TEXT))


def test_what_is_not_understood_raises():
  with pytest.raises(ValueError, match="ENTRY"):
    hlo.matmul_flops("HloModule empty")
  with pytest.raises(ValueError, match="condition compares"):
    hlo.matmul_flops(TEXT.replace(
        "  %limit", "  %other = s32[] constant(3)\n  %limit"))
