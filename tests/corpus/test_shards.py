from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from phantom_corpus import make_arrays, make_corpus

from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.open import open_storage


def test_several_coils_are_kept_as_they_are_and_every_reader_gives_them(tmp_path):
    arrays = make_arrays(num_slices=3, coils=4)
    store = make_corpus(tmp_path / "c", v={"coils": 4})
    layout = ArrayLayout.of("kspace", arrays["kspace"].shape, "v")
    shard = (tmp_path / "c" / layout.locate(0)[0]).read_bytes()
    assert arrays["kspace"].tobytes()[:4096] in shard
    plain = zarr.open_array(tmp_path / "c/volumes/v/kspace", mode="r")
    reader, behind = SliceReader(store.storage), SliceReader(open_storage(f"local://{tmp_path}/c"))
    for index in range(3):
        assert plain[index].tobytes() == arrays["kspace"][index].tobytes()
        assert reader.read_slice(layout, index).tobytes() == arrays["kspace"][index].tobytes()
        assert behind.read_slice(layout, index).tobytes() == arrays["kspace"][index].tobytes()


@pytest.mark.parametrize("coils", [0, 4])
def test_a_flipped_bit_anywhere_in_a_chunk_is_an_error(tmp_path, coils):
    store = make_corpus(tmp_path / "c", v={"num_slices": 1, "coils": coils})
    shape = make_arrays(num_slices=1, coils=coils)["kspace"].shape
    layout = ArrayLayout.of("kspace", shape, "v")
    path = tmp_path / "c" / layout.locate(0)[0]
    data = path.read_bytes()
    for place in [*range(20), *np.random.default_rng(0).integers(20, len(data), 60).tolist(), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(ShardError, match=r"checksum|does not decompress|cut off"):
            SliceReader(store.storage).read_slice(layout, 0)
    path.write_bytes(data)
    assert SliceReader(store.storage).read_slice(layout, 0).shape == shape[1:]


def test_threads_read_slices_at_once(tmp_path):
    arrays = make_arrays(num_slices=8)
    store = make_corpus(tmp_path / "c", v={"num_slices": 8})
    layout = ArrayLayout.of("kspace", arrays["kspace"].shape, "v")
    reader = SliceReader(store.storage)
    numbers = [n % 8 for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: reader.read_slice(layout, n).tobytes(), numbers))
    assert found == [arrays["kspace"][n].tobytes() for n in numbers]
