"""Guesses words with an encoder whose masks come in late, in PyTorch.

latemask wrote this file into the folder of a model. It needs torch and
transformers 5 alone:
  transformers.AutoModelForMaskedLM.from_pretrained(
      FOLDER, trust_remote_code=True)
The first layers are those of the stock class. They see the tokens that are no
<mask>; there the masks join, as a vector of their own plus the position, and
the late layers and the head run ("Mask More and Mask Later", Liao et al. 2022,
arXiv 2211.04898). Here every token keeps its place and attention leaves out
what a layer must not see: the same function, in the time of all tokens.

Weights: model.safetensors has the stock encoder, latemask.safetensors the rest.
`save_pretrained` writes all of them into one model.safetensors.
Letters: B texts, S tokens, D width, H heads, h D/H, N late layers.
"""

import dataclasses

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
import transformers
from transformers import modeling_outputs
from transformers.utils import hub

_FILES = ("model.safetensors", "latemask.safetensors")
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies",
          "revision", "subfolder", "token")
# Output bias of ids that the tokenizer has no word for; float16 holds it.
_NEVER = -1e4
# What an array of latemask is called here, where it is not of a norm.
_LEAVES = {"qkv_kernel": "qkv.weight", "qkv_bias": "qkv.bias",
           "out_kernel": "out.weight", "out_bias": "out.bias",
           "in_kernel": "into.weight", "in_bias": "into.bias",
           "kernel": "dense.weight", "bias": "dense.bias"}
_NORM = {"scale": "weight", "bias": "bias"}
_OUTPUT = {"output_bias": "output.bias", "output_embedding": "output.weight"}


@dataclasses.dataclass(frozen=True)
class _Style:
  """What tells the classes apart.

  Fields:
    eps, dropout, attention_dropout: what config.json calls them.
    final_norm: name of the norm behind the last layer. Where there is one,
      norms stand before attention and MLP; else behind them.
    modern: rotary positions, a gated MLP, no biases.
    behind_pad: positions begin behind the row of the padding.
    embedding: name of the word embedding.
    encoder: options of the stock encoder.
  """

  eps: str
  dropout: str
  attention_dropout: str
  final_norm: str | None
  modern: bool
  behind_pad: bool
  embedding: str = "word_embeddings"
  encoder: dict = dataclasses.field(
      default_factory=lambda: {"add_pooling_layer": False})


_ROBERTA = ("layer_norm_eps", "hidden_dropout_prob",
            "attention_probs_dropout_prob")
_STYLES = {
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _Style(
        *_ROBERTA, None, False, True)),
    "bert": _Style(*_ROBERTA, None, False, False),
    "roberta-prelayernorm": _Style(*_ROBERTA, "LayerNorm", False, True),
    "modernbert": _Style("norm_eps", "mlp_dropout", "attention_dropout",
                         "final_norm", True, False, "tok_embeddings", {}),
}


def _style(config):
  return _STYLES[config.model_type]


def _norm(config):
  style = _style(config)
  return nn.LayerNorm(config.hidden_size, eps=getattr(config, style.eps),
                      bias=not style.modern)


def _linear(config, inputs, outputs):
  return nn.Linear(inputs, outputs, bias=not _style(config).modern)


def _rotary(config, position_BxS, dtype, is_local):
  """Returns cosine and sine, [B, 1, S, h]; None without rotary positions."""
  if not _style(config).modern:
    return None
  size = config.hidden_size // config.num_attention_heads
  kind = "sliding_attention" if is_local else "full_attention"
  theta = config.rope_parameters[kind]["rope_theta"]
  frequency_h = theta ** -(torch.arange(
      0, size, 2, device=position_BxS.device).float() / size)
  angle_Bx1xSxh = position_BxS[:, None, :, None].float() * torch.cat(
      [frequency_h, frequency_h])
  return angle_Bx1xSxh.cos().to(dtype), angle_Bx1xSxh.sin().to(dtype)


def _rotate(x_BxHxSxh, rotary):
  if rotary is None:
    return x_BxHxSxh
  first, second = x_BxHxSxh.chunk(2, dim=-1)
  return x_BxHxSxh * rotary[0] + torch.cat([-second, first], -1) * rotary[1]


def _sees(is_key_BxS, dtype, near=True):
  """Returns what is added to scores, [B, 1, 1, S], or [B, 1, S, S].

  Finite, so that where there is no key at all the result is finite too.

  Args:
    near: [B, 1, S, S], of local layers; which keys are near which query.
  """
  sees = is_key_BxS[:, None, None] & near
  return torch.zeros(sees.shape, dtype=dtype, device=is_key_BxS.device
                     ).masked_fill(~sees, torch.finfo(dtype).min)


def _near(config, position_BxS):
  """Returns which keys a local layer lets each query see, [B, 1, S, S]."""
  apart = position_BxS[:, None, :, None] - position_BxS[:, None, None]
  return apart.abs() <= config.local_attention // 2


class _Attention(nn.Module):

  def __init__(self, config):
    super().__init__()
    self.heads = config.num_attention_heads
    self.dropout = getattr(config, _style(config).attention_dropout)
    width = config.hidden_size
    self.qkv = _linear(config, width, 3 * width)
    self.out = _linear(config, width, width)

  def _project(self, x_BxSxD, first, last):
    """Returns queries, keys, values `first` to `last`, [B, H, S, h] each."""
    rows = slice(first * x_BxSxD.shape[-1], last * x_BxSxD.shape[-1])
    bias = None if self.qkv.bias is None else self.qkv.bias[rows]
    both = functional.linear(x_BxSxD, self.qkv.weight[rows], bias)
    return [x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in both.chunk(last - first, dim=-1)]

  def forward(self, query_BxSxD, key_BxSxD, sees, rotary):
    q, = self._project(query_BxSxD, 0, 1)
    k, v = self._project(key_BxSxD, 1, 3)
    mixed_BxHxSxh = functional.scaled_dot_product_attention(
        _rotate(q, rotary), _rotate(k, rotary), v, attn_mask=sees,
        dropout_p=self.dropout if self.training else 0.0)
    return self.out(mixed_BxHxSxh.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):

  def __init__(self, config):
    super().__init__()
    self.gated = _style(config).modern
    size = config.intermediate_size
    self.into = _linear(config, config.hidden_size, size * (1 + self.gated))
    self.out = _linear(config, size, config.hidden_size)

  def forward(self, x_BxSxD):
    first, *gate = self.into(x_BxSxD).chunk(1 + self.gated, dim=-1)
    inside = functional.gelu(first)
    return self.out(inside * gate[0] if gate else inside)


class _Layer(nn.Module):
  """Self-attention, cross-attention where there is a memory, MLP."""

  def __init__(self, config):
    super().__init__()
    style = _style(config)
    self.pre_norm = style.final_norm is not None
    self.attention, self.attention_norm = _Attention(config), _norm(config)
    if config.latemask["decoder"] == "cross":
      self.cross_attention, self.cross_norm = _Attention(config), _norm(config)
    self.mlp, self.mlp_norm = _Mlp(config), _norm(config)
    self.dropout = nn.Dropout(getattr(config, style.dropout))

  def _add(self, x, norm, change):
    """Returns x and what `change` makes of it, normed before or after."""
    if self.pre_norm:
      return x + self.dropout(change(norm(x)))
    return norm(x + self.dropout(change(x)))

  def forward(self, x, sees, rotary, memory=None, sees_memory=None):
    x = self._add(x, self.attention_norm,
                  lambda y: self.attention(y, y, sees, rotary))
    if memory is not None:
      x = self._add(x, self.cross_norm, lambda y: self.cross_attention(
          y, memory, sees_memory, rotary))
    return self._add(x, self.mlp_norm, self.mlp)


class _Head(nn.Module):

  def __init__(self, config):
    super().__init__()
    self.dense = _linear(config, config.hidden_size, config.hidden_size)
    self.norm = _norm(config)

  def forward(self, x_BxSxD):
    return self.norm(functional.gelu(self.dense(x_BxSxD)))


class _LateMasks:
  """The language model; the stock classes below bring the rest.

  config.json has in `latemask`: late_layers, late_are_local (for each),
  decoder, decoder_queries, mask_token_id, and num_words, the ids that the
  tokenizer has words for.
  """

  accepts_loss_kwargs = False  # Trainer divides by its own steps.

  def __init__(self, config):
    super().__init__(config)
    style, about = _style(config), config.latemask
    setattr(self, self.base_model_prefix, transformers.AutoModel.from_config(
        config, **style.encoder))
    self.mask_vector = nn.Parameter(torch.zeros(config.hidden_size))
    self.late = nn.ModuleList(
        _Layer(config) for _ in range(about["late_layers"]))
    if style.final_norm and about["decoder"] == "cross":
      self.decoder_norm = _norm(config)
    self.head = _Head(config)
    self.output = nn.Linear(config.hidden_size, config.vocab_size)
    self._tied_weights_keys = {"output.weight": ".".join([
        self.base_model_prefix, "embeddings", style.embedding, "weight"])}
    self.post_init()

  def get_output_embeddings(self):
    return self.output

  def set_output_embeddings(self, new):
    self.output = new

  @classmethod
  def from_pretrained(cls, name, *args, config=None, **kwargs):
    """Loads a folder of latemask, or what `save_pretrained` wrote of one."""
    where = {key: kwargs[key] for key in _WHERE if key in kwargs}
    paths = [hub.cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, **where)
             for file in _FILES]
    encoder = safetensors.torch.load_file(paths[0]) if all(paths) else None
    if encoder is None or "mask_vector" in encoder:  # All is in one file.
      return super().from_pretrained(name, *args, config=config, **kwargs)
    config = config or cls.config_class.from_pretrained(name, **where)
    state = {f"{cls.base_model_prefix}.{key}": tensor
             for key, tensor in encoder.items()}
    state |= _rest(safetensors.torch.load_file(paths[1]), config)
    for key in where:
      del kwargs[key]
    found = super().from_pretrained(
        None, *args, config=config, state_dict=state, **kwargs)
    model = found[0] if isinstance(found, tuple) else found
    model.config.name_or_path = model.name_or_path = name
    return found

  def forward(self, input_ids, attention_mask=None, position_ids=None,
              labels=None, token_type_ids=None, **kwargs):
    """Returns logits of all tokens, [B, S, V], and the loss of labels.

    Padding has logits of 0. With decoder `cross` and queries `targets` so has
    all but the masks and what has a label: nothing else is predicted.
    """
    del kwargs
    types = ({} if _style(self.config).modern
             else {"token_type_ids": token_type_ids})
    about = self.config.latemask
    if attention_mask is None:
      attention_mask = input_ids != self.config.pad_token_id
    is_real = attention_mask.bool()
    is_mask = (input_ids == about["mask_token_id"]) & is_real
    is_kept = is_real & ~is_mask
    is_query = is_real
    if (about["decoder"], about["decoder_queries"]) == ("cross", "targets"):
      is_query = is_mask if labels is None else is_mask | (labels != -100)
    position = position_ids
    if position is None:
      position = (is_real.cumsum(1) - 1).clamp(min=0)
      if _style(self.config).behind_pad:
        position = torch.where(is_real, position + 1, 0
                               ) + self.config.pad_token_id
    hidden = self._late(
        *self._early(input_ids, is_kept, position, types),
        self._slots(position), position, is_mask, is_kept, is_query)
    logits = self.output(self.head(hidden)).masked_fill(
        ~is_query[..., None], 0)
    loss = None if labels is None else functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten())
    return modeling_outputs.MaskedLMOutput(loss=loss, logits=logits)

  def _early(self, input_ids, is_kept, position, types):
    """Returns the states of the kept tokens before and after the final norm."""
    before = []
    name = _style(self.config).final_norm
    hook = name and getattr(self.base_model, name).register_forward_pre_hook(
        lambda module, inputs: before.append(inputs[0]))
    try:
      after = self.base_model(
          input_ids, attention_mask=is_kept.long(), position_ids=position,
          **types).last_hidden_state
    finally:
      if hook:
        hook.remove()
    # What stands elsewhere has seen nothing, and may be no number.
    return [x.masked_fill(~is_kept[..., None], 0)
            for x in (*(before or [after]), after)]

  def _slots(self, position):
    """Returns the mask vector at all places, embedded."""
    options = {} if _style(self.config).modern else {"position_ids": position}
    return self.base_model.embeddings(
        inputs_embeds=self.mask_vector.expand(*position.shape, -1), **options)

  def _late(self, before, after, slots, position, is_mask, is_kept, is_query):
    """Returns the output of the late layers, [B, S, D]."""
    cross = self.config.latemask["decoder"] == "cross"
    x = torch.where(is_mask[..., None], slots, after if cross else before)
    memory = (after, _sees(is_kept, x.dtype)) if cross else ()
    is_local = self.config.latemask["late_are_local"]
    places = {kind: (_sees(is_query, x.dtype,
                           not kind or _near(self.config, position)),
                     _rotary(self.config, position, x.dtype, kind))
              for kind in set(is_local)}
    for layer, kind in zip(self.late, is_local):
      x = layer(x, *places[kind], *memory)
    name = _style(self.config).final_norm
    if name is None:
      return x
    return (self.decoder_norm if cross else getattr(self.base_model, name))(x)


def _rest(arrays, config):
  """Returns the weights of latemask.safetensors by their names here."""
  state = {"mask_vector": arrays["mask_vector"]}
  for name in {"output_bias", "output_embedding"} & set(arrays):
    state[_OUTPUT[name]] = arrays[name][:config.vocab_size].clone()
  state["output.bias"][config.latemask["num_words"]:] = _NEVER
  for path, array in arrays.items():
    stack, _, inside = path.partition("/")
    if stack in ("head", "decoder_norm"):
      state[_name(path)] = _weight(path, array)
    elif stack == "late":
      inside = inside.removeprefix("layers/")
      for index, one in enumerate(array):
        state[_name(f"late/{index}/{inside}")] = _weight(path, one)
  return state


def _name(path):
  *modules, leaf = path.split("/")
  leaves = _NORM if modules[-1].endswith("norm") else _LEAVES
  return ".".join([*modules, leaves[leaf]])


def _weight(path, array):
  """Returns an array as torch has it: matrices as [outputs, inputs]."""
  if not path.endswith("kernel"):
    return array.flatten()
  if path.endswith("in_kernel"):  # GxDxF.
    array = array.movedim(0, 1)
  return (array.flatten(1) if array.ndim == 4 or path.endswith("in_kernel")
          else array.flatten(0, -2)).T.contiguous()


class RobertaForMaskedLM(_LateMasks, transformers.RobertaPreTrainedModel):
  """RoBERTa whose masks come in late."""


class BertForMaskedLM(_LateMasks, transformers.BertPreTrainedModel):
  """BERT whose masks come in late."""


class XLMRobertaForMaskedLM(
    _LateMasks, transformers.XLMRobertaPreTrainedModel):
  """XLM-R whose masks come in late."""


class CamembertForMaskedLM(_LateMasks, transformers.CamembertPreTrainedModel):
  """CamemBERT whose masks come in late."""


class RobertaPreLayerNormForMaskedLM(
    _LateMasks, transformers.RobertaPreLayerNormPreTrainedModel):
  """RoBERTa with norms in front, whose masks come in late."""


class ModernBertForMaskedLM(
    _LateMasks, transformers.ModernBertPreTrainedModel):
  """ModernBERT whose masks come in late."""
