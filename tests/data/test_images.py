"""Images come out as a few lines of Pillow and numpy give them, and no more of them is decoded than is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from onnxshrink.calibration.dataset import feeds_of
from onnxshrink.data import images
from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import IMAGE, all_values, config, pixels, write_images

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RAW = config("scale = 1")


def _spec(*shape: int | str, kind: str = "float") -> TensorSpec:
    return TensorSpec("image", f"tensor({kind})", shape)


def test_images_of_the_right_size_are_guessed_to_want_imagenet_values(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["a.png", "b.png"])
    data = read_data(tmp_path, [IMAGE])
    want = np.stack([(array.astype(np.float32) / 255 - MEAN) / STD for array in arrays]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(all_values(data, [IMAGE])["image"], want)
    assert data.explanation == (
        "input 'image' [n,3,8,8] float32: images of 8×8 as they are, RGB, divided by 255, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225, CHW: say otherwise in --data-config",
    )
    assert data.preprocessing == data.explanation[0].split(": ")[1]


def test_larger_images_are_scaled_and_cut_out_as_torchvision_does(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"], 300, 401)
    spec = _spec("n", 3, 224, 224)
    data = read_data(tmp_path, [spec])
    assert (
        "images resized to 224×224 (shorter side 256, centre crop, bilinear), RGB, divided by 255"
        in data.explanation[0]
    )
    resized = Image.fromarray(array).resize((int(256 * 401 / 300), 256), Image.Resampling.BILINEAR)
    cut = resized.crop((59, 16, 59 + 224, 16 + 224))  # (342 − 224) / 2 and (256 − 224) / 2
    want = ((np.asarray(cut, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_array_equal(all_values(data, [spec])["image"][0], want)


def test_small_inputs_are_cut_out_without_a_margin_and_others_are_stretched(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"], 20, 30)
    assert "8×8 (shorter side 8, centre crop" in read_data(tmp_path, [IMAGE]).preprocessing
    spec = _spec("n", 3, 8, 10)
    data = read_data(tmp_path, [spec], RAW)
    assert data.preprocessing == "images resized to 8×10 (stretched, bilinear), RGB, raw pixels, CHW"
    want = np.asarray(Image.fromarray(array).resize((10, 8), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_array_equal(all_values(data, [spec])["image"][0], want.transpose(2, 0, 1))


def test_integers_take_raw_pixels_and_one_channel_gray(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"])
    last = _spec("n", 8, 8, 3, kind="uint8")
    data = read_data(tmp_path, [last])
    assert data.explanation == ()
    assert data.preprocessing == "images of 8×8 as they are, RGB, raw pixels, HWC"
    np.testing.assert_array_equal(all_values(data, [last])["image"][0], array)
    gray = _spec("n", 1, 8, 8)
    data = read_data(tmp_path, [gray])
    assert "gray, divided by 255, CHW" in data.explanation[0]
    want = np.asarray(Image.fromarray(array).convert("L"), np.float32) / 255
    np.testing.assert_array_equal(all_values(data, [gray])["image"][0, 0], want)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("channels = 'BGR'\nscale = 1", lambda rgb: rgb[:, :, ::-1]),
        ("mean = 127.5\nstd = 127.5", lambda rgb: (rgb - 127.5) / 127.5),
        ("mean = [1, 2, 3]\nstd = [4, 5, 6]", lambda rgb: (rgb - np.float32([1, 2, 3])) / np.float32([4, 5, 6])),
        ("scale = 0.5\nmean = 1", lambda rgb: rgb * np.float32(0.5) - 1),
        ("scale = '2/255'", lambda rgb: rgb * 2 / np.float32(255)),
        ("channels = 'BGR'", lambda rgb: (rgb[:, :, ::-1] / np.float32(255) - MEAN[::-1]) / STD[::-1]),
    ],
)
def test_what_the_config_says_about_values(tmp_path: Path, text: str, check: object) -> None:
    (array,) = write_images(tmp_path, ["a.png"])
    got = all_values(read_data(tmp_path, [IMAGE], config(text)), [IMAGE])["image"][0]
    np.testing.assert_array_equal(got, check(array.astype(np.float32)).transpose(2, 0, 1))  # type: ignore[operator]


def test_signed_integers_are_rounded_and_clipped(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"])
    spec = _spec("n", 3, 8, 8, kind="int8")
    got = all_values(read_data(tmp_path, [spec], config("mean = 128")), [spec])["image"][0]
    np.testing.assert_array_equal(got.astype(int), array.astype(int).transpose(2, 0, 1) - 128)


def test_what_the_config_says_about_sizes(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"], 12, 24)
    image = Image.fromarray(array)

    def got(text: str) -> np.ndarray:
        return all_values(read_data(tmp_path, [IMAGE], config(f"scale = 1\n{text}")), [IMAGE])["image"][0].transpose(
            1, 2, 0
        )

    nearest = Image.Resampling.NEAREST
    np.testing.assert_array_equal(got("fit = 'stretch'\ninterpolation = 'nearest'"), image.resize((8, 8), nearest))
    cropped = image.resize((20, 10), Image.Resampling.BICUBIC).crop((6, 1, 14, 9))
    np.testing.assert_array_equal(got("shorter-side = 10\ninterpolation = 'bicubic'"), cropped)
    padded = got("fit = 'pad'\npad-value = 114\ninterpolation = 'nearest'")
    np.testing.assert_array_equal(padded[2:6], image.resize((8, 4), nearest))
    assert set(padded[:2].ravel()) | set(padded[6:].ravel()) == {114.0}
    free = _spec("n", 3, "h", "w")
    assert all_values(read_data(tmp_path, [free], RAW), [free])["image"].shape == (1, 3, 12, 24)
    assert all_values(read_data(tmp_path, [free], config("size = [6, 5]")), [free])["image"].shape == (1, 3, 6, 5)


def test_layouts(tmp_path: Path) -> None:
    (array,) = write_images(tmp_path, ["a.png"])
    free = _spec("n", "a", "b", "c")
    got = all_values(read_data(tmp_path, [free], config('layout = "NHWC"\nscale = 1')), [free])["image"]
    np.testing.assert_array_equal(got[0], array)
    flat = _spec("n", 192)
    got = all_values(read_data(tmp_path, [flat], RAW), [flat])["image"]
    np.testing.assert_array_equal(got[0], array.transpose(2, 0, 1).ravel())
    single = _spec(3, 8, 8)
    batches = list(read_data(tmp_path, [single], RAW).batches([single], 4))
    np.testing.assert_array_equal(batches[0].feed["image"], array.transpose(2, 0, 1))


def test_images_of_different_sizes_run_one_shape_at_a_time(tmp_path: Path) -> None:
    for name, height in (("a", 5), ("b", 5), ("c", 7), ("d", 5)):
        Image.fromarray(pixels(height, 6)).save(tmp_path / f"{name}.png")
    free = _spec("n", 3, "h", "w")
    data = read_data(tmp_path, [free], config("scale = 1\nlabel-offset = 2"))
    shapes = [batch.feed["image"].shape for batch in data.batches([free], 4)]
    assert shapes == [(2, 3, 5, 6), (1, 3, 7, 6), (1, 3, 5, 6)]
    fixed = _spec(2, 3, "h", "w")
    with pytest.raises(DataError, match=r"d\.png and the one before it have different shapes"):
        all_values(read_data(tmp_path, [fixed], RAW), [fixed])


def test_only_images_in_use_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, [f"{index:03}.png" for index in range(30)])
    data = read_data(tmp_path, [IMAGE])
    decoded: list[str] = []
    opened = images._opened

    def counted(path: Path) -> PIL.Image.Image:
        decoded.append(path.name)
        return opened(path)

    monkeypatch.setattr(images, "_opened", counted)
    assert data.samples == 30
    assert len(data.digest) == 64
    assert decoded == []
    assert sum(batch.samples for batch in data.batches([IMAGE], 4, limit=10)) == 10
    assert decoded == [f"{index:03}.png" for index in range(10)]
    feeds = feeds_of(data, [IMAGE], 20)
    decoded.clear()
    assert len(feeds[:5]) == 5
    assert decoded == []
    assert feeds[7]["image"].shape == (1, 3, 8, 8)
    assert decoded == ["007.png"]


def test_labels_of_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, ["dog/1.png", "cat/1.png", "cat/2.png"])
    data = read_data(tmp_path, [IMAGE])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    assert data.explanation[1] == "labels are the 2 names in sorted order: 0 is cat, 1 is dog"
    ordered = read_data(tmp_path, [IMAGE], config('classes = ["dog", "bird", "cat"]\nlabel-offset = 10'))
    assert ordered.labels is not None
    assert ordered.labels.tolist() == [12, 12, 10]
    assert read_data(tmp_path, [IMAGE], config("label = false")).labels is None
    with pytest.raises(DataError, match="the label 'dog' is none of the 'classes' of data"):
        read_data(tmp_path, [IMAGE], config('classes = ["cat"]'))


def test_folders_named_by_numbers_are_the_labels(tmp_path: Path) -> None:
    write_images(tmp_path, ["10/1.png", "2/1.png"])
    data = read_data(tmp_path, [IMAGE])
    assert data.labels is not None
    assert data.labels.tolist() == [10, 2]
    assert data.explanation[1] == "labels are the numbers that the 2 subfolders are named by"


def test_labels_of_a_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text("file,label\nb.png,7\na.png,3\nc.png,1\n")
    data = read_data(tmp_path, [IMAGE])
    assert data.labels is not None
    assert data.labels.tolist() == [3, 7]
    assert [batch.labels.tolist() for batch in data.batches([IMAGE], 1) if batch.labels is not None] == [[3], [7]]
    (tmp_path / "labels.csv").write_text("file,label\nb.png,7\n")
    with pytest.raises(DataError, match=r"a\.png has no label in .*labels\.csv"):
        read_data(tmp_path, [IMAGE])
    (tmp_path / "labels.csv").write_text("what,label\nb.png,7\n")
    with pytest.raises(DataError, match=r"labels\.csv: no column 'file' \(columns: what, label\)"):
        read_data(tmp_path, [IMAGE])
    (tmp_path / "other.csv").write_text("file,age\nb.png,7.5\na.png,3\n")
    named = read_data(tmp_path, [IMAGE], config('labels-file = "other.csv"\nlabel = "age"', tmp_path))
    assert named.labels is not None
    assert named.labels.tolist() == [3, 7.5]


def test_boxes_of_a_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text("file,x1,y1,x2,y2\na.png,0,0,1,1\nc.png,2,2,3,3\nc.png,4,4,5,5\n")
    labels = read_data(tmp_path, [IMAGE]).labels
    assert labels is not None
    assert [label.shape for label in labels] == [(1, 4), (0,), (2, 4)]
    assert labels[2].tolist() == [[2, 2, 3, 3], [4, 4, 5, 5]]
    (tmp_path / "labels.csv").unlink()
    lines = [
        '{"file": "a.png", "label": [[0, 1]]}',
        '{"file": "b.png", "label": []}',
        '{"file": "c.png", "label": [[1, 2], [3, 4]]}',
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    labels = read_data(tmp_path, [IMAGE]).labels
    assert labels is not None
    assert [np.asarray(label).tolist() for label in labels] == [[[0, 1]], [], [[1, 2], [3, 4]]]


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        (("n", 2, 8, 8), "", "has 2 channels: images have 1, 3 or 4"),
        (("n", 3, 8, 8), "size = 9", "data.toml: 'size' is 9×9, the input 'image' takes 8×8"),
        (("n", 3, 8, 8), "channels = 'gray'", "'channels' is gray, the input 'image' has 3 channels"),
        (("n", 3, 8, 8), "mean = [1, 2]", "'mean' has 2 values for 3 channels"),
        (("n", 3, 8, 8), "shorter-side = 4", "'shorter-side' is 4, less than the size 8×8"),
        (("n", 3, 8, 8), "fit = 'none'", "a.png: 'image' has shape (3, 9, 8), the model's input is [n, 3, 8, 8]"),
        (("n", 7), "", "does not take images: give their 'size'"),
        (("a", "b", "c", "d", "e"), "", "does not take images"),
        ((4, 3, 8, 8), "", "1 samples do not fill the model's fixed batch of 4"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, shape: tuple[int | str, ...], text: str, message: str) -> None:
    write_images(tmp_path, ["a.png"], 9, 8)
    spec = _spec(*shape)
    with pytest.raises(DataError) as caught:
        all_values(read_data(tmp_path, [spec], config(text)), [spec])
    assert message in str(caught.value)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"the image .*b\.png cannot be decoded"):
        all_values(read_data(tmp_path, [IMAGE]), [IMAGE])
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the image .*b\.png cannot be decoded"):
        read_data(tmp_path, [IMAGE])
    write_images(tmp_path, ["a.png", "b.png"])
    data = read_data(tmp_path, [IMAGE])
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileAccessError, match=r"the image .*b\.png does not exist"):
        all_values(data, [IMAGE])


def test_sixteen_bits_are_scaled_and_palettes_converted(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "a.png")
    gray = _spec("n", 1, 8, 8, kind="uint8")
    got = all_values(read_data(tmp_path, [gray]), [gray])["image"][0, 0]
    assert np.abs(got.astype(int) - deep // 257).max() <= 1
    Image.fromarray(pixels(8, 8)).convert("P").save(tmp_path / "a.png")
    assert all_values(read_data(tmp_path, [IMAGE], RAW), [IMAGE])["image"].shape == (1, 3, 8, 8)


def test_animations_give_their_first_image(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    gray = _spec("n", 1, 8, 8, kind="uint8")
    assert set(all_values(read_data(tmp_path, [gray]), [gray])["image"].ravel()) == {40}


def test_folders_of_several_kinds_and_empty_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data files"):
        read_data(tmp_path, [IMAGE])
    write_images(tmp_path, ["a.png"])
    (tmp_path / "README.txt").write_text("notes")
    write_images(tmp_path / "masks", ["a.png"])
    data = read_data(tmp_path, [IMAGE], RAW)
    assert data.samples == 1
    assert data.explanation == (f"{tmp_path}: the subfolders are not read, because files lie beside them: masks",)
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"holds files of several kinds, for example a\.png and b\.npy"):
        read_data(tmp_path, [IMAGE])
    with pytest.raises(FileAccessError, match="does not exist"):
        read_data(tmp_path / "no", [IMAGE])
    (tmp_path / "c.xyz").write_text("")
    with pytest.raises(DataError, match=r"data is not read from '\.xyz' files"):
        read_data(tmp_path / "c.xyz", [IMAGE])


def test_other_inputs_need_a_value(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    inputs = [IMAGE, TensorSpec("scale", "tensor(float)", ("n", 2))]
    with pytest.raises(DataError, match=r"takes 2 inputs \(image, scale\) and the data is images: set the values"):
        read_data(tmp_path, inputs)
    data = read_data(tmp_path, inputs, config("[inputs.scale]\nvalue = [[1, 2]]"))
    assert next(data.batches(inputs, 1)).feed["scale"].tolist() == [[1, 2]]
    assert data.preprocessing.endswith("; 'scale' is [1.0, 2.0]")


def test_the_digest_follows_content_and_preprocessing(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    first = read_data(tmp_path, [IMAGE]).digest
    assert read_data(tmp_path, [IMAGE]).digest == first
    assert read_data(tmp_path, [IMAGE], RAW).digest != first
    Image.fromarray(pixels(8, 8, 9)).save(tmp_path / "a.png")
    assert read_data(tmp_path, [IMAGE]).digest != first


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, ["a.png"])
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DataError, match=r"images need Pillow: pip install 'onnxshrink\[images\]'"):
        read_data(tmp_path, [IMAGE])
