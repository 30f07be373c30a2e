"""How devices are laid out, several slices among them."""

import dataclasses

import numpy as np
import pytest

from latemask import errors
from latemask.runtime import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class _Device:
  """What the layout asks of a device."""

  id: int
  slice_index: int
  process_index: int
  platform: str = "gpu"
  device_kind: str = "fake"


def _hosts(count, each=4):
  return [_Device(host * each + i, host, host)
          for host in range(count) for i in range(each)]


@pytest.mark.parametrize("hosts, sizes", [
    (1, (2, 2, 1)), (2, (8, 1, 1)), (2, (2, 2, 2)), (2, (1, 8, 1)),
    (4, (2, 8, 1)), (4, (2, 4, 2)), (3, (3, 1, 4))])
def test_no_axis_but_the_first_two_leaves_a_slice(hosts, sizes):
  found = mesh_lib.lay_out(sizes, _hosts(hosts))
  assert found.shape == sizes and len(set(found.flat)) == 4 * hosts
  of = np.vectorize(lambda device: device.slice_index)(found)
  assert (of == of[:, :, :1]).all()
  if sizes[0] % hosts == 0:  # `data` alone tells them apart.
    assert (of == of[:, :1]).all()


@pytest.mark.parametrize("hosts, sizes", [(2, (1, 1, 8)), (4, (2, 1, 8))])
def test_slices_that_do_not_go(hosts, sizes):
  with pytest.raises(errors.InputError, match=f"does not fit {hosts} slices"):
    mesh_lib.lay_out(sizes, _hosts(hosts))
