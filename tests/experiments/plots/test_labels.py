import numpy as np

from spangym.experiments.plots.labels import free_offsets, spread


def test_spread_moves_no_further_than_necessary():
    apart = np.array([0.0, 50.0, 100.0])
    assert spread(apart, 10, 0, 100).tolist() == apart.tolist()
    close = spread(np.array([99.0, 98.0, 97.0]), 10, 0, 100)
    assert close.tolist() == [100.0, 90.0, 80.0]


def test_labels_next_to_points_cover_nothing():
    points = np.array([[50.0, 50.0], [55.0, 50.0], [99.0, 99.0], [50.0, 50.0]])
    taken = [(point - 3, point + 3) for point in points]
    offsets = free_offsets([("ab", point) for point in points], taken, 100, 100)
    boxes = list(taken)
    for point, offset in zip(points, offsets, strict=True):
        assert offset is not None
        half = np.array([6.6, 5.5])
        low, high = point + offset - half, point + offset + half
        assert (low >= 0).all()
        assert (high <= 100).all()
        assert all((high <= box[0]).any() or (low >= box[1]).any() for box in boxes)
        boxes.append((low, high))
    assert free_offsets([("ab", points[0])], [(points[0] * 0, points[0] * 2)], 100, 100) == [None]
