"""The stock Hugging Face class in PyTorch, as a contender of the bench."""

import time

import numpy as np

from latemask.data.tokenizers import specials
from latemask.hub import stock_config
from latemask.hub import weights as hf_weights
from latemask.model import cut
from latemask.model import flops
from latemask.runtime import console


class Peer:
  """...ForMaskedLM of a program's class and sizes, its own loss, AdamW."""

  def __init__(self, program, dtype, ids_BxL, compiled):
    """Builds it on the GPU where there is one.

    Args:
      program: its `vanilla` counterpart or any config of the same sizes; the
        layers are those that fine-tuning keeps, and cost the same.
      dtype: float32, or bfloat16 by autocast with float32 parameters.
      ids_BxL: the rows of every step; masked anew each time.
      compiled: try torch.compile.

    Raises:
      InputError: torch or transformers is not installed.
    """
    torch, transformers = console.installed(
        "--peer hf", "torch", "transformers")
    self._torch = torch
    c = cut.encoder_config(program.model.config)
    model_type = hf_weights.CLASSES[c.architecture][0]
    self.rows, self.length = ids_BxL.shape
    self.flops = self.rows * flops.stock_step_flops(c, self.length)
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(
            model_type, **stock_config.stock_config(c)),
        attn_implementation="sdpa")
    model.to(self._device).train()
    o = program.config.optimizer
    self._optimizer = torch.optim.AdamW(
        model.parameters(), lr=o.learning_rate, betas=(o.b1, o.b2),
        eps=o.eps, weight_decay=o.weight_decay, fused=True)
    self._autocast = torch.autocast(
        self._device, torch.bfloat16, enabled=dtype == "bfloat16")
    if dtype == "float32" and self._device == "cuda":
      torch.backends.cuda.matmul.allow_tf32 = False
    self._ids_BxL = torch.tensor(ids_BxL, dtype=torch.long,
                                 device=self._device)
    self._selected = round(0.15 * ids_BxL.size)
    self._model = model
    start_secs = time.monotonic()
    self.details = {"dtype": dtype, "torch_compile": False,
                    "torch": torch.__version__,
                    "transformers": transformers.__version__}
    if compiled:
      try:
        self._model = torch.compile(model)
        self.step()
        self.details["torch_compile"] = True
      # Whatever the platform lacks (a compiler, Triton), torch says so here.
      except (RuntimeError, OSError) as error:
        self._model = model
        self.details["torch_compile_error"] = type(error).__name__
    self.compile_secs = time.monotonic() - start_secs
    self.name = f"hf {model_type}, 15 %"

  def step(self):
    """Masks, takes a step, waits for its end."""
    torch = self._torch
    input_BxL = self._ids_BxL.clone()
    labels_BxL = torch.full_like(input_BxL, -100)
    index = torch.randperm(
        input_BxL.numel(), device=self._device)[:self._selected]
    labels_BxL.view(-1)[index] = input_BxL.view(-1)[index]
    input_BxL.view(-1)[index] = specials.TRAINED.mask
    with self._autocast:
      loss = self._model(input_ids=input_BxL, labels=labels_BxL).loss
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    if not np.isfinite(loss.item()):
      raise FloatingPointError("the peer's loss is not finite")
    if self._device == "cuda":
      torch.cuda.synchronize()
