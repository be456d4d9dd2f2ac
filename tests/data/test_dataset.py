"""Data sets of one's own arrays, the embedded sets, and what is made from a data set."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data

EPS = float(np.finfo(np.float32).eps)
X = np.arange(24, dtype=np.float64).reshape(6, 4)
CLASSES = np.array([0, 1, 2, 0, 1, 2])
SIGNS = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])


@pytest.fixture
def classes():
    """Six training rows and three test rows of three classes."""
    return data.from_arrays(X, CLASSES, X[:3] + 100, CLASSES[:3], class_names=["ant", "bee", "cat"])


@pytest.fixture
def binary():
    return data.from_arrays(X, SIGNS)


# Data sets of one's own arrays ------------------------------------------------------------------


@pytest.mark.parametrize("enable_x64", [False, True])
def test_arrays_get_the_dtypes_of_the_room(enable_x64):
    jax.config.update("jax_enable_x64", enable_x64)
    multi = data.from_arrays(X, CLASSES.astype(np.uint8), X[:2], CLASSES[:2])
    binary = data.from_arrays(jnp.asarray(X), jnp.asarray(SIGNS))
    assert [a.dtype for a in multi[:4]] == [np.float32, np.int32] * 2
    assert [a.dtype for a in binary[:4]] == [np.float32] * 4
    assert all(isinstance(a, jax.Array) for a in multi[:4])


def test_metadata_have_defaults(binary):
    multi = data.from_arrays(X.reshape(6, 2, 2), CLASSES)
    assert multi.info.class_names == ("0", "1", "2")
    assert multi.info.feature_shape == (2, 2)
    assert binary.info.class_names == ("-1", "+1")
    assert binary.x_test.shape == (0, 4)
    assert binary.y_test.shape == (0,)
    assert binary.true_weights is None


def test_a_data_set_is_a_pytree_of_arrays(classes):
    assert len(jax.tree.leaves(classes)) == 4
    total = jax.jit(lambda dataset: dataset.x_train.sum())(classes)
    assert total == X.sum()
    on_device = jax.device_put(classes, jax.devices()[1])
    assert on_device.x_test.devices() == {jax.devices()[1]}
    assert on_device.info == classes.info
    assert hash(on_device.info) == hash(classes.info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": X[:0], "y_train": CLASSES[:0]}, "x_train must have at least one row"),
        ({"x_train": X[:, :0]}, r"x_train must have at least one feature, got shape \(6, 0\)"),
        ({"x_train": X[:, 0]}, r"x_train must be \(num_examples, \*features\), got shape \(6,\)"),
        ({"x_train": np.where(X == 3, np.nan, X)}, "x_train must be finite"),
        ({"x_train": X * 1e39}, "x_train must be finite"),
        ({"y_train": CLASSES[:, None]}, r"y_train must be \(num_examples,\), got shape \(6, 1\)"),
        ({"y_train": CLASSES[:4]}, "x_train and y_train must have equal lengths, got 6 and 4"),
        ({"y_train": CLASSES - 1}, "y_train: integer labels must be 0..C-1, got -1"),
        ({"y_train": CLASSES * 1.0}, r"y_train: float labels must be -1 or \+1, got \[0"),
        ({"y_train": SIGNS * np.nan}, "y_train: float labels must be -1 or"),
        ({"x_test": X}, "x_test and y_test must be given together"),
        ({"y_test": CLASSES}, "x_test and y_test must be given together"),
        ({"x_test": X[:2], "y_test": CLASSES[:3]}, "x_test and y_test must have equal lengths"),
        ({"x_test": X[:, :3], "y_test": CLASSES}, r"x_test must have the features .*\(3,\)"),
        ({"x_test": X, "y_test": SIGNS}, "y_test must have the kind of labels of y_train"),
        ({"class_names": ["ant", "bee"]}, "class_names must name all 3 classes, got"),
        ({"class_names": ["ant", "bee", "bee"]}, "class_names must differ from each other"),
        ({"y_train": SIGNS, "class_names": list("abc")}, "class_names must name all 2 classes"),
        ({"feature_shape": (2, 3)}, r"feature_shape must have 4 entries in all, got \(2, 3\)"),
        ({"true_weights": np.ones(3)}, r"true_weights must have shape \(4,\), got \(3,\)"),
        ({"true_weights": np.ones((2, 2))}, r"true_weights must have shape \(4,\), got \(2, 2\)"),
        ({"true_weights": np.full(4, np.nan)}, "true_weights must be finite"),
    ],
)
def test_bad_arrays_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(**{"x_train": X, "y_train": CLASSES, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": CLASSES == 1}, "y_train must hold integers or floats, got dtype bool"),
        ({"y_train": np.array(list("abcabc"))}, "y_train must hold integers or floats"),
        ({"x_train": X * 1j}, "x_train must be real"),
        ({"x_train": "a"}, "x_train must be an array of real numbers: could not convert"),
        ({"x_train": [[1.0], [2.0, 3.0]]}, "x_train must be an array of real numbers"),
        ({"true_weights": ["a"] * 4}, "true_weights must be an array of real numbers"),
    ],
)
def test_bad_dtypes_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        data.from_arrays(**{"x_train": X, "y_train": CLASSES, **change})


# Two classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("negative", "positive"), [(2, 0), ("cat", "ant"), (2, "ant")])
def test_pair_keeps_two_classes(classes, negative, positive):
    reduced = data.pair(classes, negative, positive)
    np.testing.assert_array_equal(reduced.x_train, X[[0, 2, 3, 5]])
    np.testing.assert_array_equal(reduced.y_train, [1, -1, 1, -1])
    np.testing.assert_array_equal(reduced.x_test, X[[0, 2]] + 100)
    np.testing.assert_array_equal(reduced.y_test, [1, -1])
    assert reduced.y_train.dtype == reduced.y_test.dtype == np.float32
    assert reduced.info.class_names == ("cat", "ant")
    assert reduced.info.name == "arrays: cat vs ant"


def test_one_vs_rest_keeps_all_rows(classes):
    reduced = data.one_vs_rest(classes, "bee")
    np.testing.assert_array_equal(reduced.x_train, X)
    np.testing.assert_array_equal(reduced.y_train, [-1, 1, -1, -1, 1, -1])
    np.testing.assert_array_equal(reduced.y_test, [-1, 1, -1])
    assert reduced.y_train.dtype == np.float32
    assert reduced.info.class_names == ("rest", "bee")


def test_bad_classes_are_named(classes, binary):
    with pytest.raises(ValueError, match="negative and positive must be two classes, got 1 twice"):
        data.pair(classes, 1, 1)
    with pytest.raises(ValueError, match="two classes, got 'bee' twice"):
        data.pair(classes, 1, "bee")
    with pytest.raises(ValueError, match=r"positive must be in 0\.\.2, got 3"):
        data.pair(classes, 0, 3)
    with pytest.raises(ValueError, match=r"negative must be in 0\.\.2, got -1"):
        data.pair(classes, -1, 2)
    with pytest.raises(ValueError, match=r"positive must be one of \('ant', 'bee', 'cat'\), got"):
        data.one_vs_rest(classes, "dog")
    with pytest.raises(TypeError, match="positive must be a whole number, got 1.5"):
        data.one_vs_rest(classes, 1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="dataset must have class labels, got the binary 'arrays'"):
        data.pair(binary, 0, 1)
    with pytest.raises(ValueError, match="dataset must have class labels"):
        data.one_vs_rest(binary, 0)
    unseen = data.from_arrays(X, CLASSES, class_names=list("abcd"))
    with pytest.raises(ValueError, match="positive must have training rows, class 'd' has none"):
        data.one_vs_rest(unseen, 3)


# Fewer rows -------------------------------------------------------------------------------------


def sorted_by_class(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return data.from_arrays(np.arange(len(labels))[:, None], labels, [[0.0]], [0])


@pytest.mark.parametrize("num_train", [1, 7, 30, 99, 100])
def test_subset_is_in_proportion(num_train):
    counts = np.array([50, 30, 19, 1])
    reduced = data.subset(sorted_by_class(counts), num_train)
    kept = np.bincount(reduced.y_train, minlength=4)
    assert kept.sum() == num_train
    assert np.all(np.abs(kept - num_train * counts / 100) < 1)
    rows = np.asarray(reduced.x_train[:, 0])
    assert np.all(np.diff(rows) > 0)  # old order, no row twice
    labels = np.repeat(np.arange(4), counts)
    np.testing.assert_array_equal(reduced.y_train, labels[rows.astype(int)])


def test_subset_depends_on_the_seed_alone():
    dataset = sorted_by_class([40, 40])
    first, again, other = (data.subset(dataset, 20, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert np.any(first.x_train != other.x_train)


def test_subset_keeps_or_empties_the_test_set(classes):
    assert data.subset(classes, 3).x_test.shape == (3, 4)
    assert data.subset(classes, 3, 0).x_test.shape == (0, 4)
    assert data.subset(classes, 3, 2).y_test.shape == (2,)


def test_subset_chooses_every_row_equally_often():
    dataset = sorted_by_class([10, 10])
    num_seeds = 400
    hits = np.zeros(20)
    for seed in range(num_seeds):
        hits[np.asarray(data.subset(dataset, 10, seed=seed).x_train[:, 0], int)] += 1
    # Binomial(400, 1/2): 4.5 standard errors, over 20 rows a chance of 1e-4.
    assert np.all(np.abs(hits / num_seeds - 0.5) < 4.5 * 0.5 / np.sqrt(num_seeds))


@pytest.mark.parametrize(
    ("num_train", "num_test", "message"),
    [
        (0, None, r"num_train must be in 1\.\.6, got 0"),
        (7, None, r"num_train must be in 1\.\.6, got 7"),
        (3, 4, r"num_test must be in 0\.\.3, got 4"),
        (3, -1, r"num_test must be in 0\.\.3, got -1"),
    ],
)
def test_bad_subsets_are_named(classes, num_train, num_test, message):
    with pytest.raises(ValueError, match=message):
        data.subset(classes, num_train, num_test)


# Scale and shape --------------------------------------------------------------------------------


def test_standardize_uses_the_training_rows():
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(3, 5, (50, 4)), rng.normal(0, 1, (20, 4))
    dataset = data.standardize(data.from_arrays(x, np.zeros(50, int), x_test, np.zeros(20, int)))
    # float32 rounding of the inputs (up to about 20) and of the result.
    tolerance = 30 * EPS
    np.testing.assert_allclose(dataset.x_train, (x - x.mean(0)) / x.std(0), atol=tolerance)
    np.testing.assert_allclose(dataset.x_test, (x_test - x.mean(0)) / x.std(0), atol=tolerance)
    assert "standardised" in dataset.info.notes[-1]
    assert dataset.x_train.dtype == np.float32


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, -3e-30])
def test_a_constant_feature_is_only_centred(constant):
    x = np.stack([np.full(7, constant), np.arange(7)], axis=1)
    x32 = np.float32(constant)
    dataset = data.standardize(data.from_arrays(x, np.zeros(7, int), x + 1, np.zeros(7, int)))
    np.testing.assert_array_equal(dataset.x_train[:, 0], 0)
    np.testing.assert_array_equal(dataset.x_test[:, 0], (x + 1).astype(np.float32)[:, 0] - x32)


def test_images_and_flatten_undo_each_other():
    x = np.arange(24.0).reshape(2, 12)
    flat = data.from_arrays(x, [0, 1], feature_shape=(2, 3, 2))
    shaped = data.images(flat)
    np.testing.assert_array_equal(shaped.x_train, x.reshape(2, 2, 3, 2))
    assert shaped.x_test.shape == (0, 2, 3, 2)
    np.testing.assert_array_equal(data.flatten(shaped).x_train, x)
    assert data.flatten(shaped).x_test.shape == (0, 12)


# Embedded sets ----------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    raw = sklearn_datasets.load_digits()
    dataset = data.digits(test_fraction=0)
    np.testing.assert_array_equal(dataset.x_train * 16, raw.data)
    np.testing.assert_array_equal(dataset.y_train, raw.target)
    np.testing.assert_array_equal(data.images(dataset).x_train[..., 0] * 16, raw.images)
    assert dataset.x_test.shape == (0, 64)
    assert dataset.info.class_names == tuple("0123456789")


@pytest.mark.parametrize("test_fraction", [0.2, 0.5, 0.01])
def test_digits_split_is_stratified_and_complete(test_fraction):
    pytest.importorskip("sklearn")
    whole, parts = data.digits(test_fraction=0), data.digits(test_fraction=test_fraction)
    assert len(parts.x_test) == round(test_fraction * 1797)
    counts, kept = (np.bincount(y, minlength=10) for y in (whole.y_train, parts.y_test))
    assert np.all(np.abs(kept - len(parts.x_test) / 1797 * counts) < 1)
    rows = np.concatenate([np.c_[parts.x_train, parts.y_train], np.c_[parts.x_test, parts.y_test]])
    expected = np.c_[whole.x_train, whole.y_train]
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
    assert len(rows) == 1797


def test_the_split_is_a_function_of_the_seed():
    pytest.importorskip("sklearn")
    first, again, other = (data.digits(seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert np.any(first.x_test != other.x_test)


def test_breast_cancer_is_that_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    raw = sklearn_datasets.load_breast_cancer()
    dataset = data.breast_cancer(test_fraction=0, standardize=False)
    np.testing.assert_array_equal(dataset.x_train, raw.data.astype(np.float32))
    np.testing.assert_array_equal(dataset.y_train, np.where(raw.target == 1, 1, -1))
    assert dataset.y_train.dtype == np.float32
    assert dataset.info.class_names == ("malignant", "benign")
    assert int((dataset.y_train < 0).sum()) == 212


def test_breast_cancer_is_standardised_unless_told():
    pytest.importorskip("sklearn")
    dataset = data.breast_cancer()
    assert (len(dataset.x_train), len(dataset.x_test)) == (455, 114)
    # Means of 455 float32 numbers of size 1, summed in float64.
    x = np.asarray(dataset.x_train, np.float64)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 1.0}, r"test_fraction must be in \[0, 1\), got 1.0"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 1\), got -0.1"),
        ({"test_fraction": float("nan")}, r"test_fraction must be in \[0, 1\), got nan"),
        ({"test_fraction": 0.9999}, "test_fraction must leave at least one of"),
        ({"seed": -1}, "seed must be in 0"),
    ],
)
@pytest.mark.parametrize("load", [data.digits, data.breast_cancer])
def test_bad_splits_are_named(load, arguments, message):
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=message):
        load(**arguments)


@pytest.mark.parametrize("bad", ["a", "0.5", None, [0.5], 0.5j])
def test_splits_that_are_no_numbers_are_named(bad):
    pytest.importorskip("sklearn")
    with pytest.raises(TypeError, match="test_fraction must be a real number, got"):
        data.digits(test_fraction=bad)


@pytest.mark.parametrize("load", [data.digits, data.breast_cancer])
def test_a_missing_scikit_learn_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'scikit-learn.*pip install "jaxrobust\[data\]"'):
        load()
