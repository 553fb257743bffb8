"""What is available on a machine, and how published weights get there."""

import functools
import hashlib
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pcsr.config.load import Study, load_released, load_study
from pcsr.config.released import ReleasedFile, ReleasedWeights
from pcsr.data import download
from pcsr.errors import UserError
from pcsr.weights import available
from pcsr.weights.convert import fetch_released

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
    """Otherwise a bad copy would stay forever."""
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


def test_a_git_blob_is_part_of_a_files_identity_and_of_no_others() -> None:
    known = ReleasedWeights(files=(ReleasedFile(path="ARM/a.pth", git_blob="0" * 40),))
    assert known.identity() == {
        "files": [{"path": "ARM/a.pth", "sha256": None, "git_blob": "0" * 40}]
    }
    assert "git_blob" not in str(weights().identity())
    for wrong in ("0" * 39, "G" * 40, "0" * 64):
        with pytest.raises(ValidationError, match="git_blob"):
            ReleasedFile(path="ARM/a.pth", git_blob=wrong)


def test_every_address_has_a_checksum() -> None:
    files = [file for weights in load_released().values() for file in weights.files]
    assert [file.path for file in files if file.url and not (file.sha256 or file.git_blob)] == []
    assert sum(file.git_blob is not None for file in files) == 4


def test_released_files_are_held_to_their_git_blob(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    blob = subprocess.run(
        ["git", "hash-object", "--stdin"], input=BODY, capture_output=True, check=True
    )
    (tmp_path / "a.pth").write_bytes(BODY)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        file = ReleasedFile(
            path="ARM/a.pth",
            url=f"http://127.0.0.1:{server.server_port}/a.pth",
            git_blob=blob.stdout.decode().strip(),
        )
        right, wrong = (
            ReleasedWeights(files=(file.model_copy(update={"git_blob": expected}),))
            for expected in (file.git_blob, "0" * 40)
        )
        with pytest.raises(
            UserError, match=rf"a\.pth: expected git_blob 0+, found {file.git_blob};"
        ):
            available.obtain(wrong, raw)
        assert not (raw / "released/ARM/a.pth").exists()
        assert available.obtain(right, raw).read_bytes() == BODY
        monkeypatch.setattr(download, "LARGEST", len(BODY) - 1)
        (raw / "released/ARM/a.pth").write_bytes(b"other")  # a wrong copy is downloaded again
        with pytest.raises(UserError, match="expected at most 6 bytes, the server sends 7"):
            available.obtain(right, raw)
        server.shutdown()


def test_a_users_own_copy_is_held_to_its_git_blob(raw: Path) -> None:
    put(raw / "released/ARM/a.pth", b"other")
    known = ReleasedWeights(files=(ReleasedFile(path="ARM/a.pth", git_blob="0" * 40),))
    with pytest.raises(UserError, match=r"a\.pth: expected git_blob 0+, found [0-9a-f]{40}; put"):
        available.obtain(known, raw)


def test_converted_weights_are_there_without_their_file(study: Study, mirror: Path) -> None:
    put(Path("results/released/carn-arm/released/weights.safetensors"))
    assert "carn-arm" not in available.absent_weights(study)
    assert "carn-pcsr" in available.absent_weights(study)


def test_with_a_network_everything_with_an_address_is_available(study: Study, raw: Path) -> None:
    absent = available.absent_weights(study, raw)
    assert set(absent) == {"fsrcnn-classsr", "carn-classsr", "srresnet-classsr"}
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
        ({"protocols": [{"lr": "16bit"}]}, "protocols.0.lr: Input should be '8bit' or 'float'"),
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
    message = r"^configs/released.yaml: unknown experiment 'carn-pcr'. Did you mean 'carn-pcsr'\?"
    with pytest.raises(UserError, match=message):
        fetch_released("carn-pcr", out=tmp_path / "weights.safetensors")
