"""How an array of ours stands in a stock file, and the way back.

Every class here has both directions; weights.py says which array has which:
  to_stock(array, config) -> {name: tensor}
  from_stock(take, shape, config) -> our array of that shape, where
      take(name, shape) gives a tensor, which must have its shape.
`config` is the `ModelConfig`.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Vector:
  """A vector; or an array that stock keeps as several, first axis first."""

  names: tuple

  def to_stock(self, array, config):
    del config
    return dict(zip(self.names, array.reshape(len(self.names), -1)))

  def from_stock(self, take, shape, config):
    del config
    size = math.prod(shape) // len(self.names)
    return np.stack([take(n, (size,)) for n in self.names]).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A matrix; stock writes [outputs, inputs].

  Fields:
    names: of the stock tensors; several where stock keeps apart what is one
      array here (query, key, value).
    inputs, outputs: axes of our array. What is left is the axis of `names`.
  """

  names: tuple
  inputs: tuple = (0,)
  outputs: tuple = (1,)

  def order(self, ndim):
    """Returns the order of our axes in which stock stores the elements."""
    return [axis for axis in range(ndim)
            if axis not in self.inputs + self.outputs
            ] + [*self.outputs, *self.inputs]

  def stock_shape(self, shape):
    """Returns the shape of each stock tensor of an array of ours."""
    return tuple(math.prod(shape[axis] for axis in axes)
                 for axes in (self.outputs, self.inputs))

  def to_stock(self, array, config):
    del config
    turned = array.transpose(self.order(array.ndim))
    return dict(zip(self.names, turned.reshape(
        len(self.names), *self.stock_shape(array.shape))))

  def from_stock(self, take, shape, config):
    del config
    axes = self.order(len(shape))
    turned = np.stack([take(n, self.stock_shape(shape)) for n in self.names])
    return turned.reshape([shape[axis] for axis in axes]).transpose(
        np.argsort(axes))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A row or a number an id; only ours has padding behind the last id.

  Fields:
    names: stock may write the same under several; the first is read.
  """

  names: tuple

  def to_stock(self, array, config):
    return dict.fromkeys(self.names, array[:config.vocab_size])

  def from_stock(self, take, shape, config):
    padding = np.zeros((shape[0] - config.vocab_size, *shape[1:]), np.float32)
    return np.concatenate([
        take(self.names[0], (config.vocab_size, *shape[1:])), padding])


@dataclasses.dataclass(frozen=True)
class Positions:
  """Learned positions, to which stock adds the first token type.

  Fields:
    table: name of the positions.
    types: name of the token types. Zero where it is written; where it is read
      the first type becomes part of every position.
    first: the row of the first position; those before it are never used.
  """

  table: str
  types: str
  first: int

  def to_stock(self, array, config):
    return {self.table: np.pad(array, ((self.first, 0), (0, 0))),
            self.types: np.zeros((1, config.width), np.float32)}

  def from_stock(self, take, shape, config):
    rows, width = shape
    return (take(self.table, (rows + self.first, width))[self.first:]
            + take(self.types, (None, width))[:1])


@dataclasses.dataclass(frozen=True)
class SecondText:
  """What stock's second token type has more than the first, see `Positions`.

  Fields:
    types: name of the token types; where there is one alone, that is nothing.
  """

  types: str

  def to_stock(self, array, config):
    del config
    return {self.types: np.stack([np.zeros_like(array), array])}

  def from_stock(self, take, shape, config):
    del config
    first_D, *others = take(self.types, (None, *shape))
    return others[0] - first_D if others else np.zeros_like(first_D)


@dataclasses.dataclass(frozen=True)
class Layers:
  """The same in each layer; here all layers stand in one array.

  Fields:
    at: what the names begin with, {} for the number of the layer.
    one: the layout of one layer's array.
    first: the first layer for which stock has it. Those before it are read as
      ones; the model does not use them.
  """

  at: str
  one: object
  first: int = 0

  def to_stock(self, array, config):
    return {self.at.format(layer) + name: tensor
            for layer in range(self.first, len(array)) for name, tensor
            in self.one.to_stock(array[layer], config).items()}

  def from_stock(self, take, shape, config):
    layers, *shape = shape

    def read(layer):
      at = self.at.format(layer)
      return self.one.from_stock(lambda n, s: take(at + n, s), shape, config)
    return np.stack(
        [np.ones(shape, np.float32)] * self.first
        + [read(layer) for layer in range(self.first, layers)])
