"""Who is who by likeness alone: vectors of faces grouped into persons."""

import numpy as np


def by_likeness(vectors: np.ndarray, threshold: float) -> list[int]:
    """Number of the person, from 1, that each vector (N, D) shows: average linkage of cosines, cut at `threshold`.

    Two groups are one person if the mean cosine between their members is at least that. Persons are numbered in the
    order in which they first come.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) == 1:
        return [1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    upper = np.triu_indices(len(unit), 1)
    distances = np.clip(1 - (unit @ unit.T)[upper], 0, 2)  # as scipy wants them: the pairs above the diagonal
    found = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
    first: dict[int, int] = {}
    return [first.setdefault(int(group), len(first) + 1) for group in found]
