"""3ML base: 12 layers that never meet a [MASK], 2 late ones, 50 % masks.

  python -m latemask.main --config configs/base.py --workdir runs/base
  python -m latemask.main --config configs/base.py:small --workdir runs/small

Sizes: base.py:tiny, :small, :base (default), :large. Every key of every run
stands here, once, with its comment; other configs are this plus a delta.
Batch, steps and learning rate are DinkyTrain's efficient recipe (Wettig et
al., arXiv 2202.08005), depth and rate 3ML's (arXiv 2211.04898), layers
ModernBERT's, all of them global: at size tiny (40 MB of books, 4,096 pieces,
1,500 steps) they end 1.0 nats below the unigram entropy, those of RoBERTa 0.1.
4096 rows x 23,000 steps x 128 tokens = 12 G tokens. Hardware: a TPU slice, for
example a v4-8; not yet trained to the end by this project, so no result is
quoted.
"""

import ml_collections
from ml_collections import config_dict

# width, heads, mlp, encoder layers, vocabulary, batch, learning rate, steps.
# base and large are RoBERTa's; the two small ones train on a laptop. An MLP is
# gated, and has two thirds of the width of RoBERTa's, 4 D, so that its three
# matrices cost what RoBERTa's two do: to the nearest 128, the lanes of a TPU.
SIZES = {
    "tiny": (64, 2, 128, 2, 1024, 16, 2e-3, 200),
    "small": (256, 4, 640, 6, 8192, 64, 1e-3, 20_000),
    "base": (768, 12, 2048, 12, 50_265, 4096, 2e-3, 23_000),
    "large": (1024, 16, 2688, 24, 50_265, 4096, 2e-3, 23_000),
}
LATE_LAYERS = 2


def get_config(size="base"):
  """Returns the late-mask recipe of a size."""
  if size not in SIZES:
    raise ValueError(f"size is {size!r}; choose one of {', '.join(SIZES)}")
  (width, heads, mlp, encoder_layers, vocab_size, batch_size, learning_rate,
   num_steps) = SIZES[size]
  config = ml_collections.ConfigDict()
  integer, real, text = (
      lambda kind=kind: config_dict.placeholder(kind)
      for kind in (int, float, str))

  # Everything random (order of rows, masks, dropout, initial weights) comes
  # from this and the step.
  config.seed = 0

  config.data = data = ml_collections.ConfigDict()
  # Documents: text:GLOB, files:GLOB, parquet:GLOB, arrow:GLOB,
  # tfds:NAME[:SPLIT], builtin; several joined by commas (a comma that no kind
  # follows is part of the name). SOURCE@SHARE,...: shares of the rows.
  data.source = "tfds:wikipedia/20230601.en,tfds:pg19"
  # Where packed rows lie; None: WORKDIR/data. Several runs may share one.
  data.dir = text()
  # Where rows of a data.dir on gs:// are copied to; None: the system's
  # temporary folder.
  data.cache_dir = text()
  # Where TFDS sets lie; None: TFDS's own default (~/tensorflow_datasets).
  data.tfds_dir = text()
  # Features (TFDS), keys (.jsonl) and columns (.csv, parquet, Arrow) that hold
  # the text; the first found.
  data.text_fields = ("text", "book_text")
  # What a document of .txt is: lines (each one), or blank_lines (what stands
  # between them). In .jsonl it is a line.
  data.documents = "lines"
  # A tokenizer to load: a SentencePiece model, a tokenizer.json or a Hugging
  # Face folder; None trains one on the documents.
  data.tokenizer = text()
  # What is trained: unigram (SentencePiece), or bpe (bytes, as RoBERTa's).
  data.tokenizer_kind = "unigram"
  # A file of words, one a line, that data.tokenizer, or that of
  # train.init_from, gets as tokens of their own.
  data.add_tokens = text()
  # A data.tokenizer without a mask token gets one; else it is refused.
  data.add_mask_token = False
  # Ids of a tokenizer that is trained, specials and 256 bytes included.
  data.vocab_size = vocab_size
  # Text that a tokenizer is trained on, sampled evenly (bounds memory).
  data.tokenizer_sample_bytes = 64 << 20
  # L, tokens a row.
  data.length = 128
  # documents: they see only themselves; stream: one running text.
  data.packing = "documents"
  # Of documents, which share a row: best (those that fill it; a document is
  # cut where it is longer than a row, and where rows would stay empty), or next
  # (as they come, cut wherever a row ends: rows packed before this key, and
  # their streams lack the documents of fewer than 8 tokens).
  data.fit = "best"
  # Files of packed rows; None: one per 16 MiB of text.
  data.shards = integer()
  # Documents that may be skipped because they cannot be read.
  data.max_bad_documents = 0
  # Processes that pack; None: one a core.
  data.workers = integer()
  # Share of the documents held out for evaluation, in rows of their own.
  data.eval_fraction = 0.005
  # Other text to hold out, as data.source names it: of data.source then
  # nothing is, and eval_fraction is not used. Of sources with shares one for
  # each, in order. None: eval_fraction.
  data.eval_source = text()

  config.masking = masking = ml_collections.ConfigDict()
  # Share of the row's tokens that are selected; with phases, in held-out rows
  # alone (eval/loss). Special tokens count, and are never selected: of those
  # that can be, 50 % of a row of 128 means 50.8, 53.3 and 61.5 % with 1, 4 and
  # 12 documents in it.
  masking.rate = 0.5
  # What is selected together: token, word or span.
  masking.unit = "token"
  # Where words begin (unit word): spaces, or scripts (there, and at each piece
  # of a script that writes none, such as Han, kana and Thai).
  masking.word_starts = "scripts"
  # Phases of training with rates of their own: ((rate, share of the steps), ...)
  # or (rate, share, predict_rate), in order. (): masking.rate all along.
  masking.phases = ()
  # Of the selected: share that becomes random ids, and stays in the input.
  masking.random_rate = 0.0
  # Of the selected: share that stays as it is.
  masking.same_rate = 0.0
  # Share of the tokens that are predicted; None: all that are selected.
  masking.predict_rate = real()
  # Mean tokens of a span (unit span; geometric).
  masking.span_length = 3.0
  # No span is longer.
  masking.max_span_length = 10

  config.model = model = ml_collections.ConfigDict()
  # roberta (post-norm; bert, xlm_roberta, camembert: the same, as published
  # encoders are called), roberta_prenorm, modern (rotary positions, GeGLU).
  model.architecture = "modern"
  # D, width of the states; H, attention heads; F, inside of the MLP.
  model.width = width
  model.heads = heads
  model.mlp = mlp
  # N, all layers, late ones included.
  model.layers = encoder_layers + LATE_LAYERS
  # Layers before it, counted from 0, see kept tokens only. 0: ordinary masking.
  model.insertion_layer = encoder_layers
  # append (slots behind the kept tokens) or scatter (in original order): the
  # same function.
  model.insertion = "append"
  # Late layers: self or cross.
  model.decoder = "self"
  # Queries of the cross decoder: targets or all.
  model.decoder_queries = "targets"
  # V, ids the model knows; None: the tokenizer's.
  model.vocab_size = integer()
  # Longest row that has positions. Those from L on learn nothing here: what is
  # trained on is recorded, and fine-tuning, fill_mask and export keep to it.
  model.max_length = 512
  # Dropout of states, and of attention weights.
  model.dropout = 0.1
  model.attention_dropout = 0.1
  # Base of the rotary angles (modern).
  model.rotary_theta = 10_000.0
  # A layer in so many is global, from the first one on; the others are local
  # (modern alone). Late layers behind the last of them are global, too. 1: all.
  model.global_every = 1
  # Tokens of its document that one sees in a local layer, half of them on
  # either side; in positions, masked or not.
  model.local_window = 128
  # Base of the rotary angles in local layers.
  model.local_rotary_theta = 10_000.0
  # Words are predicted by the word embedding; else by one of their own, V * D
  # parameters more (BERT and RoBERTa tie both, some encoders do not).
  model.tied_output = True
  # Added to variances in norms.
  model.norm_eps = 1e-5
  # Dtype of the computation; parameters are float32 always. float32 is
  # multiplied in float32 everywhere: on TPUs in six passes of bfloat16.
  model.dtype = "bfloat16"
  # How global attention is computed, always the same to rounding: xla (scores
  # whole), chunked (queries in blocks, memory linear in the length), splash (a
  # kernel for TPUs, without attention dropout; splash_interpret: the same
  # anywhere, slowly), cudnn (for GPUs, likewise), or auto: splash where it can
  # be, from 512 tokens on, else chunked from 1,024 on, else xla.
  model.attention = "auto"
  # Layers compiled one after the other instead of as a loop.
  model.unroll = 1
  # Recomputed in the backward pass: None (nothing), elementwise (all but the
  # large products that it needs), dots (all but any large product) or layer
  # (all but layer inputs).
  model.remat = "elementwise"
  # Targets a device whose logits exist at a time, at most.
  model.loss_tokens = 1024

  config.train = train = ml_collections.ConfigDict()
  # Parameters to begin with: a run, a checkpoint of it or a Hugging Face
  # folder; None: fresh ones.
  train.init_from = text()
  # What is taken of a run: parameters, or all (the optimizer's moments, too; the
  # steps count anew): the next of the phases that runs are chained to.
  train.init_state = "parameters"
  # Number of this run among such phases. Each has masks, dropout and an order of
  # rows of its own; masking.phases are others, inside of one run.
  train.phase = 1
  # Late layers that it does not have: copy (of its last ones) or fresh.
  train.init_late = "fresh"
  # Standard deviation of fresh kernels: fan_in (0.554 / sqrt(inputs), which is
  # BERT's 0.02 at 768 of them) or fixed (0.02 whatever their inputs are).
  train.init_kernels = "fan_in"
  # A factor on that.
  train.init_scale = 1.0
  # The mask vector: own, or embedding (the mask's row of the word embedding).
  train.mask_vector = "own"
  # B, rows of the GLOBAL batch.
  train.batch_size = batch_size
  # Updates.
  train.num_steps = num_steps
  # FLOPs of the run, matrix products by flops.py. It then takes as many steps
  # as fit, whatever num_steps says; what is counted in steps elsewhere stays.
  # None: num_steps.
  train.total_flops = real()
  # Micro-batches of an update.
  train.accumulation = 1
  # Share of the run over which an average of the parameters goes (the newest
  # steps have most of its weight); it is evaluated beside them. None: no
  # average.
  train.average_share = real()
  # When loss or gradient is no longer finite: stop, or rollback (go on from
  # the newest checkpoint without the rows from there to the failure).
  train.on_nonfinite = "stop"
  # Rollbacks of a run, at most.
  train.max_rollbacks = 3
  # Generator of dropout: hash, threefry2x32, rbg or unsafe_rbg (rng.py).
  # Masks always use threefry2x32.
  train.dropout_rng = "hash"

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # adamw, or muon for the matrices of layers and head and adamw for the rest.
  optimizer.name = "adamw"
  # Share of muon's momentum that stays.
  optimizer.momentum = 0.95
  # Peak learning rate.
  optimizer.learning_rate = learning_rate
  # After warm-up: linear, cosine, inverse_sqrt, constant, or wsd (constant, and
  # linear in the last steps).
  optimizer.schedule = "linear"
  # Share of the run's steps in which wsd falls, to its end.
  optimizer.decay_fraction = 0.2
  # Share of the run's steps in which the learning rate rises, from its start.
  optimizer.warmup_fraction = 0.06
  # Where linear, cosine and wsd end.
  optimizer.final_learning_rate = 0.0
  # AdamW; biases, norms and the mask vector do not decay.
  optimizer.weight_decay = 0.01
  optimizer.b1 = 0.9
  optimizer.b2 = 0.98
  optimizer.eps = 1e-6
  # Largest norm of the gradient; None: no clipping.
  optimizer.clip_norm = real()

  config.eval = evaluation = ml_collections.ConfigDict()
  # Between evaluations; there is one at the start and the end, too.
  evaluation.every_steps = min(num_steps, 1000)
  # Mask rates besides the one of training, at which runs can be compared:
  # single tokens, without noise, whatever a run is trained with.
  evaluation.rates = (0.15,)
  # fixed: masks of the row alone, the same for every run; seeded: of the run's
  # seed, and eval.rates have its unit and noise (runs begun before this key).
  evaluation.masks = "fixed"
  # Held-out rows that are read at most.
  evaluation.max_rows = 16_384
  # Rows of an evaluation batch; None: a micro-batch of training.
  evaluation.batch_size = integer()

  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  # Between checkpoints; there is one at the end, too.
  checkpoint.every_steps = min(num_steps, 1000)
  # Checkpoints kept, the newest ones.
  checkpoint.keep = 3
  # Saves that may fail in a row (a full disk) before the run ends.
  checkpoint.max_failed_saves = 3

  config.metrics = metrics = ml_collections.ConfigDict()
  # Between lines of metrics.jsonl and of the console.
  metrics.every_steps = min(num_steps, 50)
  # First step of a profiler trace (TensorBoard's profile tab); None: none.
  metrics.profile_step = integer()
  # Steps that it covers.
  metrics.profile_steps = 5

  config.mesh = mesh = ml_collections.ConfigDict()
  # Devices by axis: data replicates parameters, fsdp shards them, tensor
  # splits heads and MLP. None: what is left.
  mesh.data = integer()
  mesh.fsdp = 1
  mesh.tensor = 1
  return config
