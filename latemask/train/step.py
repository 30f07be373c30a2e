"""The state of training, the one train step, and the eval step.

Everything that runs, compiles or measures a step (train, evaluate, bench,
ahead-of-time compiles, tests) builds a `Program` here and nowhere else.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import phases as phases_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import attention_kinds
from latemask.model import encoder
from latemask.model import flops
from latemask.model import loss
from latemask.model import partition
from latemask.model import products
from latemask.model import word_embedding
from latemask.runtime import mesh as mesh_lib
from latemask.runtime import rng
from latemask.train import average as average_lib
from latemask.train import initial
from latemask.train import mask_vector
from latemask.train import optimizer as optimizer_lib
from latemask.train import schedule as schedule_lib

# Streams of random numbers of a seed. A run that is a later phase of others
# (train.phase) has four of its own. Their numbers are none of a step: to
# unsafe_rbg stream 6 at step 2 is stream 2 at step 6.
_INIT, _MASK, _DROPOUT, _EVAL = range(4)
_NUM_STREAMS, _NO_STEP = 4, 1 << 31
_MICRO_BATCH = 1
# That of evaluation masks which are the same for every run.
_EVAL_SEED = 0


@flax.struct.dataclass
class TrainState:
  """All that changes. No random state: keys come from (seed, step).

  Fields:
    step: int32 scalar, updates done.
    params: the model's parameters, float32.
    opt_state: the optimizer's.
    average: the `average.Average` of the parameters; None without
      `train.average_share`.
  """

  step: jax.Array
  params: dict
  opt_state: tuple
  average: average_lib.Average | None = None


@flax.struct.dataclass
class StepMetrics:
  """What a train step reports, float32 scalars on the device.

  Fields:
    sums: loss sums over all targets of the global batch.
    grad_norm: of the mean gradient, before clipping.
    learning_rate: that of the update.
  """

  sums: loss.Sums
  grad_norm: jax.Array
  learning_rate: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A config made executable on a mesh.

  Fields:
    config: the run's config, with the number of steps that its budget allows.
    mesh: devices as (data, fsdp, tensor).
    phases: the `phases.Phase`s of training.
    eval_plan: the `plan.Plan` of `masking.rate`, for held-out rows.
    model, optimizer, schedule: its other parts.
  """

  config: object
  mesh: jax.sharding.Mesh
  model: encoder.LateMaskModel
  phases: tuple[phases_lib.Phase, ...]
  eval_plan: plan_lib.Plan
  optimizer: optax.GradientTransformation
  schedule: object

  @property
  def plan(self):
    """The plan of the first phase's masks; without phases the only one."""
    return self.phases[0].plan

  def phase_at(self, step):
    """Returns the number of the phase of a step, from 0."""
    return sum(step >= phase.first_step for phase in self.phases) - 1

  @property
  def step_flops(self):
    """FLOPs of the model in a step of the first phase, all rows."""
    return self.flops_of_phases[0]

  @functools.cached_property
  def flops_of_phases(self):
    """FLOPs of the model in a step, all rows, phase by phase."""
    return [_step_flops(self.config, self.model, phase.plan)
            for phase in self.phases]

  def flops_until(self, step):
    """Returns FLOPs of the model in the first steps; what budgets count."""
    return sum(
        max(0, min(step - phase.first_step, phase.num_steps)) * flops_of_one
        for phase, flops_of_one in zip(self.phases, self.flops_of_phases))

  @functools.cached_property
  def update_flops(self):
    """FLOPs of the optimizer in matrix products, all devices together."""
    return optimizer_lib.OPTIMIZERS[self.config.optimizer.name].update_flops(
        self.state_shapes.params)

  @property
  def batch_sharding(self):
    """Sharding of ids_BxL."""
    return mesh_lib.batch_sharding(self.mesh)

  @functools.cached_property
  def state_shapes(self):
    """The state as ShapeDtypeStructs with shardings."""
    shapes = jax.eval_shape(self._init)
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype,
                                              sharding=where),
        shapes, partition.tree_shardings(shapes, self.mesh))

  @functools.cached_property
  def state_shardings(self):
    """The shardings of the state."""
    return jax.tree.map(lambda s: s.sharding, self.state_shapes)

  def init_state(self):
    """Returns the state before the first step, born sharded."""
    with jax.set_mesh(self.mesh):
      return jax.jit(self._init, out_shardings=self.state_shardings)()

  @property
  def train_step(self):
    """That of the first phase; without phases the only one."""
    return self.train_steps[0]

  @functools.cached_property
  def train_steps(self):
    """Jitted (state, ids_BxL) -> (state, StepMetrics), one a phase.

    They donate the state.
    """
    return [self._jit(
        functools.partial(self._train_step, phase.plan), in_shardings=(
            self.state_shardings, self.batch_sharding),
        out_shardings=(self.state_shardings, None), donate_argnums=0)
            for phase in self.phases]

  def eval_step(self, plan):
    """Returns a jitted (params, rows_B, ids_BxL) -> (Sums, counts).

    The masks depend on the row alone (and on the run's seed where `eval.masks`
    is seeded). counts is that of `masking.count`.
    """
    return self._jit(
        functools.partial(self._eval_step, plan), in_shardings=(
            self.state_shardings.params, self.batch_sharding,
            self.batch_sharding))

  @functools.cached_property
  def average(self):
    """Jitted TrainState -> the mean of its parameters, after the first step."""
    return self._jit(lambda state: average_lib.mean(state.average),
                     in_shardings=(self.state_shardings,),
                     out_shardings=self.state_shardings.params)

  def hidden(self, params, masked, key_drop=None, looked_up_BxKxD=None):
    """Returns the head's hidden states of the targets, [B, T, D]."""
    rngs = {} if key_drop is None else {"dropout": key_drop}
    return self.model.apply(
        {"params": params}, masked, key_drop is not None, looked_up_BxKxD,
        rngs=rngs)

  def loss_sums(self, params, masked):
    """Returns the loss `Sums` of a masked batch, without dropout."""
    return self._loss_sums(masked, None, params, None,
                           word_embedding.per_shard(
                               word_embedding.output(params)))

  def gradient(self, params, masked, key_drop):
    """Returns (gradient of the loss sum, `Sums`) of a masked batch."""
    return word_embedding.gradient(
        functools.partial(self._loss_sums, masked, key_drop), params,
        masked.kept_ids_BxK)

  def _loss_sums(self, masked, key_drop, params, looked_up_BxKxD,
                 output_SxVxD):
    c = self.model.config
    return loss.head_loss(
        self.hidden(params, masked, key_drop, looked_up_BxKxD),
        output_SxVxD, params["output_bias"], masked.target_ids_BxT,
        masked.target_weights_BxT, c.vocab_size, c.loss_tokens, c.loss_chunk)

  def keys_at(self, step):
    """Returns the keys of (masks, dropout) of a step; rows are folded in."""
    return (jax.random.fold_in(self._key(_MASK), step),
            jax.random.fold_in(
                self._key(_DROPOUT, self.config.train.dropout_rng), step))

  def _jit(self, function, **options):
    jitted = jax.jit(function, **options)
    return _InMesh(jitted, self.mesh)

  @property
  def _average_steps(self):
    """Steps that the average of the parameters is over; None: there is none."""
    share = self.config.train.average_share
    return share and max(1, share * self.config.train.num_steps)

  def _key(self, stream, kind="threefry2x32"):
    if self.config.train.phase > 1:
      stream += _NO_STEP + _NUM_STREAMS * self.config.train.phase
    return rng.stream(self.config.seed, stream, kind)

  def _init(self):
    plan = self.plan
    # A row for each shard: kernels that are laid out by hand take no fewer.
    ids_BxL = jnp.zeros(
        (mesh_lib.num_batch_shards(self.mesh), plan.length), jnp.int32)
    masked = selection.mask_batch(
        plan, self._key(_MASK), jnp.arange(len(ids_BxL)), ids_BxL)
    params = self._tied(initial.rescale(
        self.model.init(self._key(_INIT), masked)["params"],
        self.config.train.init_kernels, self.config.train.init_scale))
    return TrainState(
        jnp.zeros((), jnp.int32), params, self.optimizer.init(params),
        average_lib.begin(params) if self._average_steps else None)

  def _train_step(self, plan, state, ids_BxL):
    key_mask, key_drop = self.keys_at(state.step)
    ids_AxBxL, rows_AxB = (
        self._micro_batches(x) for x in (ids_BxL, jnp.arange(len(ids_BxL))))

    def gradient(rows_B, ids_BxL, key_drop):
      masked = selection.mask_batch(plan, key_mask, rows_B, ids_BxL)
      return self.gradient(state.params, masked, key_drop)

    if len(ids_AxBxL) == 1:
      grads, sums = gradient(rows_AxB[0], ids_AxBxL[0], key_drop)
    else:
      def accumulate(total, xs):
        index, rows_B, ids_BxL = xs
        new = gradient(rows_B, ids_BxL, rng.fold_in(
            key_drop, index, _MICRO_BATCH))
        return jax.tree.map(jnp.add, total, new), None
      zero = jnp.zeros((), jnp.float32)
      zeros = (jax.tree.map(jnp.zeros_like, state.params),
               loss.Sums(zero, zero, zero))
      (grads, sums), _ = jax.lax.scan(
          accumulate, zeros,
          (jnp.arange(len(ids_AxBxL)), rows_AxB, ids_AxBxL))

    grads = mask_vector.gradient(
        self.config.train.mask_vector,
        jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1), grads),
        plan.vocabulary.specials.mask)
    # Muon multiplies in optax, which leaves it to the platform.
    with products.precision_of(self.config.model.dtype):
      updates, opt_state = self.optimizer.update(
          grads, state.opt_state, state.params)
    metrics = StepMetrics(sums, optax.tree.norm(grads),
                          self.schedule(state.step))
    params = self._tied(optax.apply_updates(state.params, updates))
    average = None
    if self._average_steps:
      average = average_lib.update(state.average, params, self._average_steps)
    return TrainState(state.step + 1, params, opt_state, average), metrics

  def _tied(self, params):
    return mask_vector.tied(self.config.train.mask_vector, params,
                            self.plan.vocabulary.specials.mask)

  def _micro_batches(self, x_Bx):
    """[B, ...] -> [A, B / A, ...], each device keeping its own rows."""
    count = self.config.train.accumulation
    x = x_Bx.reshape(len(x_Bx) // count, count, *x_Bx.shape[1:])
    return mesh_lib.constrain(
        jnp.moveaxis(x, 1, 0), None, mesh_lib.BATCH_AXES)

  def _eval_step(self, plan, params, rows_B, ids_BxL):
    key = (self._key(_EVAL) if self.config.eval.masks == "seeded"
           else rng.stream(_EVAL_SEED, _EVAL))
    masked = selection.mask_batch(plan, key, rows_B, ids_BxL)
    return self.loss_sums(params, masked), selection.count(plan, ids_BxL)


@dataclasses.dataclass(frozen=True)
class _InMesh:
  """A jitted function that traces, lowers and runs under its mesh."""

  jitted: object
  mesh: jax.sharding.Mesh

  def __call__(self, *args):
    with jax.set_mesh(self.mesh):
      return self.jitted(*args)

  def lower(self, *args):
    """Lowers for arguments or their shapes."""
    with jax.set_mesh(self.mesh):
      return self.jitted.lower(*args)


def _step_flops(config, model, plan):
  return config.train.batch_size * sum(
      flops.train_step_flops(model.config, plan).values())


def build(config, vocabulary=None, mesh=None):
  """Makes a config executable; touches neither disk nor parameters.

  Args:
    vocabulary: the `specials.Vocabulary` of the tokenizer; None is one of the
      config's size, for a program that is measured rather than trained.
    mesh: None makes that of `config.mesh` over all devices.

  Raises:
    InputError: anything in the config that cannot be, with its key.
  """
  vocabulary = vocabulary or specials.trained(
      config.model.vocab_size or config.data.vocab_size)
  mesh = mesh or mesh_lib.make_mesh(config)
  model = encoder.make_model(config, vocabulary.size)
  attention_kinds.check(model.config, mesh.devices.flat[0].platform)
  train = config.train
  shards = mesh_lib.num_batch_shards(mesh)
  if train.batch_size % (shards * train.accumulation):
    raise errors.InputError(
        f"train.batch_size {train.batch_size} is not divisible by the "
        f"{shards} shards of the mesh (mesh.data x mesh.fsdp) times "
        f"train.accumulation {train.accumulation}")
  plans = phases_lib.plans(config, vocabulary)
  flops_of_phases = [_step_flops(config, model, plan) for _, plan in plans]

  def run_flops(num_steps):
    counts = phases_lib.lay_out([share for share, _ in plans], num_steps)
    return sum(n * f for n, f in zip(counts, flops_of_phases))

  # Here, because nothing is known of a step before, and nothing asks for the
  # number of steps, or the schedule, but of what is built here.
  config = schedule_lib.within_budget(config, run_flops)
  schedule = schedule_lib.schedule_of(config)
  program = Program(
      config=config, mesh=mesh, model=model,
      phases=phases_lib.of_run(plans, config.train.num_steps),
      eval_plan=plan_lib.make_plan(config, vocabulary),
      optimizer=optimizer_lib.make_optimizer(
          config.optimizer.name, config.optimizer, schedule),
      schedule=schedule)
  program.state_shapes  # An axis that the mesh does not divide raises here.
  return program
