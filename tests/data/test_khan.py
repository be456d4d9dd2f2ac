"""The Khan set: a made-up tiny one for every path and error, the real one where it is."""

import numpy as np
import pytest

from jaxrobust import data

XTRAIN = "1.5 2.5 3.5\n-1 0 4\n"  # two genes in rows, three samples in columns
XTEST = "   \n7 8 9\n1 2 3\n"
KHAN = {"xtrain": XTRAIN, "ytrain": "2 4 1\n", "xtest": XTEST, "ytest": "NA 3 NA\n"}


def write_khan(folder, **change):
    folder.mkdir(exist_ok=True)
    for name, text in {**KHAN, **change}.items():
        (folder / f"khan.{name}").write_text(text)
    return folder


def test_khan_transposes_and_drops_unlabelled_samples(tmp_path):
    dataset = data.khan(write_khan(tmp_path))
    np.testing.assert_array_equal(dataset.x_train, [[1.5, -1], [2.5, 0], [3.5, 4]])
    np.testing.assert_array_equal(dataset.y_train, [1, 3, 0])
    np.testing.assert_array_equal(dataset.x_test, [[8, 2]])
    np.testing.assert_array_equal(dataset.y_test, [2])
    assert dataset.info.notes == ("2 test samples without label dropped",)


def test_khan_standardises_when_told(tmp_path):
    dataset = data.khan(write_khan(tmp_path), standardize=True)
    x = np.array([[1.5, -1], [2.5, 0], [3.5, 4]])
    np.testing.assert_allclose(dataset.x_train, (x - x.mean(0)) / x.std(0), rtol=1e-6, atol=1e-7)


def test_khan_is_found_in_esl(tmp_path, monkeypatch):
    write_khan(tmp_path / "esl")
    assert len(data.khan(tmp_path).x_train) == 3
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    assert len(data.khan().x_train) == 3


def test_khan_missing_says_where_and_how(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="JAXROBUST_DATA: not set") as caught:
        data.khan()
    for part in ("khan.xtrain", "khan.ytest", "esl/", "tensorflow-datasets does not have this set"):
        assert part in str(caught.value)
    write_khan(tmp_path / "esl")
    (tmp_path / "esl" / "khan.ytest").unlink()
    with pytest.raises(FileNotFoundError, match="missing: khan.ytest"):
        data.khan(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ytrain": "2 4"}, "khan.xtrain has 3 columns, .*khan.ytrain has 2 labels"),
        ({"ytrain": "2 4 5"}, r"khan.ytrain must hold labels 1..4 or NA, got \['2', '4', '5'\]"),
        ({"xtrain": "1 2 3\n4 5\n"}, "khan.xtrain is no table of numbers"),
        ({"xtrain": "1 2 3\n4 five 6\n"}, "khan.xtrain is no table of numbers"),
        ({"xtrain": ""}, "khan.xtrain has 0 columns"),
        ({"xtest": "7 8 9\n"}, "x_test must have the features of x_train"),
        ({"ytrain": "NA NA NA"}, "x_train must have at least one row"),
    ],
)
def test_damaged_khan_files_are_errors(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        data.khan(write_khan(tmp_path, **change))


@pytest.mark.data("esl")
def test_the_real_khan(data_dir):
    dataset = data.khan(data_dir)
    assert dataset.x_train.shape == (63, 2308)
    assert dataset.x_test.shape == (20, 2308)
    assert dataset.info.notes == ("5 test samples without label dropped",)
    # The published counts of the four tumours, training set, and training and test set together.
    names = ("BL", "EWS", "NB", "RMS")
    assert dataset.info.class_names == names
    train = np.bincount(dataset.y_train)
    assert dict(zip(names, train, strict=True)) == {"EWS": 23, "BL": 8, "NB": 12, "RMS": 20}
    np.testing.assert_array_equal(train + np.bincount(dataset.y_test), [11, 29, 18, 25])
