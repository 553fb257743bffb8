"""What is available on a machine, and how published weights get there."""

import hashlib
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pcsr.config.load import Study, find_released, load_released, load_study
from pcsr.config.models import ReleasedFile, ReleasedWeights
from pcsr.errors import UserError
from pcsr.weights import available

BODY = b"weights"
SHA256 = hashlib.sha256(BODY).hexdigest()
URL = "http://127.0.0.1:9/none.pth"  # nothing listens there
GET = "Ask the authors."


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PCSR_MIRROR", raising=False)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("PCSR_MIRROR", str(folder))
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The released suite with a set that users bring, in a folder where nothing is prepared."""
    values = yaml.safe_load(Path("configs/suites/released.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values | {"test_sets": ["urban100", "kodak24"]}))
    loaded = load_study(path)
    monkeypatch.chdir(tmp_path)
    return loaded


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def put(path: Path, body: bytes = BODY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def weights(url: str | None = None, sha256: str | None = SHA256) -> ReleasedWeights:
    files = [
        ReleasedFile(path=f"ARM/a.{kind}", url=url, sha256=sha256) for kind in ("pth", "state")
    ]
    return ReleasedWeights(files=tuple(files), get=GET)


def test_files_of_a_mirror_are_placed_side_by_side(mirror: Path, raw: Path) -> None:
    for kind in ("pth", "state"):
        put(mirror / f"released/ARM/a.{kind}")
    for url in (URL, None):  # a mirror is looked into first
        assert available.obtain(weights(url), raw) == raw / "released/ARM/a.pth"
        assert (raw / "released/ARM/a.state").read_bytes() == BODY


def test_a_users_own_files_are_taken_without_a_mirror(raw: Path) -> None:
    for kind in ("pth", "state"):
        put(raw / f"released/ARM/a.{kind}")
    assert available.obtain(weights(), raw).read_bytes() == BODY


def test_a_file_that_is_nowhere_is_named_with_where_to_get_it(raw: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pth: no such file; put .* there.*Ask the authors"):
        available.obtain(weights(), raw)


def test_another_file_of_that_name_is_refused_and_kept(mirror: Path, raw: Path) -> None:
    own = raw / "released/ARM/a.pth"
    put(own, b"other")
    with pytest.raises(UserError, match=rf"{own}: expected sha256 {SHA256}, found"):
        available.obtain(weights(), raw)
    assert own.read_bytes() == b"other"
    put(mirror / "released/ARM/a.pth", b"wrong")
    with pytest.raises(UserError, match=r"mirror/released/ARM/a\.pth: expected sha256"):
        available.obtain(weights(), raw)
    put(raw / "released/ARM/a.state")
    assert available.obtain(weights(sha256=None), raw) == own  # whatever it is


def test_a_file_without_a_checksum_follows_the_mirror(mirror: Path, raw: Path) -> None:
    """Or a bad copy would stay for ever."""
    for body in (b"broken", BODY):
        for kind in ("pth", "state"):
            put(mirror / f"released/ARM/a.{kind}", body)
        assert available.obtain(weights(sha256=None), raw).read_bytes() == body
    (mirror / "released/ARM/a.pth").unlink()
    assert available.obtain(weights(sha256=None), raw).read_bytes() == BODY


def test_with_a_mirror_nothing_is_downloaded(mirror: Path, raw: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pth: no such file; put the right file there, or into"):
        available.obtain(weights(URL), raw)


@pytest.mark.parametrize("path", ["../evil.pth", "/etc/hostname", "a/../../b.pth", "a//b", ""])
def test_a_published_file_stays_in_its_folder(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        ReleasedFile(path=path)


def test_a_download_address_changes_no_identity() -> None:
    assert weights(URL).identity() == weights("http://other").identity() == weights().identity()
    assert weights(sha256=None).identity() != weights().identity()


def test_converted_weights_are_there_without_their_file(study: Study, mirror: Path) -> None:
    put(Path("results/released/carn-arm/released/weights.safetensors"))
    assert "carn-arm" not in available.absent_weights(study)
    assert "carn-pcsr" in available.absent_weights(study)


def test_with_a_network_everything_with_an_address_is_available(study: Study, raw: Path) -> None:
    absent = available.absent_weights(study, raw)
    srresnet = {"srresnet-original", "srresnet-pcsr", "srresnet-classsr", "srresnet-arm"}
    assert set(absent) == srresnet | {"fsrcnn-classsr", "carn-classsr"}
    assert "released/ClassSR/ClassSR_CARN.pth" in absent["carn-classsr"]
    assert "README" in absent["carn-classsr"]
    assert set(available.absent_test_sets(study, raw)) == {"kodak24"}  # a folder that users fill


def test_a_mirror_stands_for_the_network(study: Study, mirror: Path, raw: Path) -> None:
    put(mirror / "released/PCSR/save/carn-x4/iter_last.pth")
    put(mirror / "released/ARM-Net/ckpt/arm-carn.pth")  # its tables are missing
    (mirror / "Kodak24").mkdir()
    left = set(study.experiments) - set(available.absent_weights(study, raw))
    assert left == {"carn-original"}
    assert "arm-carn.state" in available.absent_weights(study, raw)["carn-arm"]
    absent = available.absent_test_sets(study, raw)
    assert set(absent) == {"urban100"} and "Urban100/HR" in absent["urban100"]
    put(raw / "benchmark.tar")
    assert available.absent_test_sets(study, raw) == {}


def test_a_suite_of_nothing_says_what_is_missing(study: Study, mirror: Path) -> None:
    with pytest.raises(UserError, match=r"none of its weights .*fsrcnn-x4.*fix or unset PCSR_MIRR"):
        available.present(study)
    put(mirror / "released/PCSR/save/carn-x4/iter_last.pth")
    with pytest.raises(
        UserError, match=r"none of its test sets are available here \(urban100: PCSR_M"
    ):
        available.present(study)
    (mirror / "Urban100/HR").mkdir(parents=True)
    present = available.present(study)
    assert (list(present.experiments), present.test_sets) == (["carn-original"], ["urban100"])
    assert len(present.absent_weights) == len(study.experiments) - 1
    assert set(present.absent_test_sets) == {"kodak24"}


def test_other_suites_leave_nothing_out(mirror: Path) -> None:
    study = load_study(Path("configs/suites/paper.yaml"))
    present = available.present(study)
    assert list(present.experiments) == list(study.experiments)
    assert present.test_sets == list(study.suite.test_sets)
    assert not present.absent_weights and not present.absent_test_sets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"*": {"seed": 1}}}, "released weights are not trained: drop overrides"),
        ({"train_set": "div2k-train"}, "released weights are not trained: drop train_set"),
        ({"weights": "trained"}, "or use released or shipped weights"),
        ({"weights": "bought"}, "weights: Input should be 'trained', 'released' or 'shipped'"),
        ({"both_ways": ["lr,crpo"]}, "both_ways.0: String should match"),
    ],
)
def test_suites_that_contradict_themselves(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    values = yaml.safe_load(Path("configs/suites/released.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    with pytest.raises(UserError) as error:
        load_study(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_an_experiment_without_published_weights(tmp_path: Path) -> None:
    table = load_released()
    with pytest.raises(UserError, match=r"unknown experiment 'carn-pcr'. Did you mean 'carn-pcsr'"):
        find_released("carn-pcr", table)
