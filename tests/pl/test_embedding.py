import numpy as np

from scldm.data import pbmc68k
from scldm.pl._embedding import joint_umap


def test_each_cell_gets_its_own_place():
    cells = pbmc68k()
    is_b = (cells.obs["cell_type"] == "CD19+ B").to_numpy()
    is_monocyte = (cells.obs["cell_type"] == "CD14+ Monocyte").to_numpy()
    b = cells.X[is_b]
    mixed = cells.X[np.concatenate([np.flatnonzero(is_b)[:20], np.flatnonzero(is_monocyte)[:20]])]
    own, other = joint_umap(b[20:], mixed, n_pcs=10, seed=0)
    assert own.shape == (b.shape[0] - 20, 2) and other.shape == (40, 2)
    centre = np.median(own, axis=0)
    distance = np.linalg.norm(other - centre, axis=1)
    assert np.median(distance[:20]) < np.median(distance[20:]) / 2


def test_the_seed_fixes_the_map():
    counts = pbmc68k().X[:60]
    first, second = (joint_umap(counts[:30], counts[30:], 5, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, second)
