"""Device masks and replica ids: text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.ids import MAX_DEVICES, DeviceMask, PoolId, parse_replica_id, replica_id

masks = st.sets(st.integers(0, MAX_DEVICES - 1), min_size=1).map(
    lambda found: DeviceMask(tuple(sorted(found)))
)


@pytest.mark.req("ORCH-3052")
@given(masks)
def test_a_mask_is_read_back_from_its_text(mask):
    assert DeviceMask.parse(str(mask)) == mask
    assert parse_replica_id(replica_id(PoolId("a-pool"), mask)) == ("a-pool", mask)


@pytest.mark.req("ORCH-3052")
@pytest.mark.parametrize("indices", [(), (1, 0), (0, 0), (-1,), (MAX_DEVICES,)])
def test_a_mask_that_names_no_set_of_gpus_is_refused(indices):
    with pytest.raises(ValueError, match=r"device mask|GPU ind"):
        DeviceMask(indices)


@pytest.mark.parametrize("text", ["", "demo", "demo:", ":0", "Demo:0", "demo:0,1", "demo:1_0",
                                  "demo:a", "demo:0_", "-x:0", "demo:0:1", "demo:0\n",
                                  "demo:00", "demo:0_01", "demo:\u0663"])  # fmt: skip
def test_what_is_no_replica_id_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_replica_id(text)
