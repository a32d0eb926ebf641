"""One file from the hub: resumed, checked, retried, stopped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from flowrvs.checkpoints import hub as client
from flowrvs.checkpoints.fetch import _present
from flowrvs.errors import Cancelled, CheckpointError, InputError, NetworkError, StorageError
from flowrvs.progress import CancelToken
from tests.fixtures.hub import HubStandIn, ask_here, serve_hub

REPO = "me/weights"
NAME = "sub/big.safetensors"
BIG = random.Random(3).randbytes(400_000)
SMALL = b'{"a": 1}\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """A hub with a large and a small file; attempts follow each other at once."""
    with serve_hub({REPO: {NAME: BIG, "config.json": SMALL}}) as served:
        ask_here(served, monkeypatch, tmp_path)
        monkeypatch.setattr(client, "WAITS", (0.01, 0.01, 0.01))
        yield served


def test_large_and_small_files_arrive_with_their_commit(hub: HubStandIn, tmp_path: Path) -> None:
    listing = client.list_files(REPO)
    assert listing.revision == hub.commit(REPO)
    counts: list[int] = []
    for name, content, digits in ((NAME, BIG, 64), ("config.json", SMALL, 40)):
        file = listing.file(name)
        assert (file.size, len(file.digest)) == (len(content), digits)
        client.download(file, tmp_path / "to" / name, step=counts.append)
        assert (tmp_path / "to" / name).read_bytes() == content
    assert sum(counts) == len(BIG) + len(SMALL)
    assert sorted(p.name for p in (tmp_path / "to").rglob("*.part")) == []
    assert all(hub.commit(REPO) in a.path for a in hub.asked if "/resolve/" in a.path)


def test_a_cut_connection_goes_on_where_it_broke(hub: HubStandIn, tmp_path: Path) -> None:
    hub.cuts[NAME] = [50_000, 100_000, 50_000, 50_000, 50_000]  # more than faults in a row
    counts: list[int] = []
    client.download(client.list_files(REPO).file(NAME), tmp_path / "x", step=counts.append)
    assert (tmp_path / "x").read_bytes() == BIG
    begins = [a.begins for a in hub.gets(NAME)]
    assert begins == [0, 50_000, 150_000, 200_000, 250_000, 300_000]
    assert sum(counts) == len(BIG)


def test_a_part_of_an_earlier_process_is_used(hub: HubStandIn, tmp_path: Path) -> None:
    file = client.list_files(REPO).file(NAME)
    client.partial(file, tmp_path / "x").write_bytes(BIG[:300_000])
    client.download(file, tmp_path / "x")
    assert [a.begins for a in hub.gets(NAME)] == [300_000]
    assert (tmp_path / "x").read_bytes() == BIG


def test_a_server_without_ranges_starts_anew(hub: HubStandIn, tmp_path: Path) -> None:
    hub.no_ranges = True
    file = client.list_files(REPO).file(NAME)
    client.partial(file, tmp_path / "x").write_bytes(b"?" * 300_000)
    counts: list[int] = []
    client.download(file, tmp_path / "x", step=counts.append)
    assert (tmp_path / "x").read_bytes() == BIG
    assert sum(counts) == len(BIG) - 300_000


def test_a_dead_server_keeps_the_part_and_says_so(hub: HubStandIn, tmp_path: Path) -> None:
    file = client.list_files(REPO).file(NAME)
    hub.cuts[NAME] = [50_000, 0, 0, 0, 0, 0]
    with pytest.raises(NetworkError, match="run again to go on") as caught:
        client.download(file, tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert client.partial(file, tmp_path / "x").read_bytes() == BIG[:50_000]
    assert not (tmp_path / "x").exists()
    assert len(hub.gets(NAME)) == 4


def test_a_damaged_file_is_fetched_again_once(hub: HubStandIn, tmp_path: Path) -> None:
    hub.damaged[NAME] = 1
    said: list[str] = []
    counts: list[int] = []
    file = client.list_files(REPO).file(NAME)
    client.download(file, tmp_path / "x", say=said.append, step=counts.append)
    assert f"{NAME} arrived damaged; fetching it again" in said
    assert (tmp_path / "x").read_bytes() == BIG
    assert sum(counts) == len(BIG)

    hub.damaged["config.json"] = 5
    with pytest.raises(CheckpointError, match=r"me/weights/config.json arrived damaged twice"):
        client.download(client.list_files(REPO).file("config.json"), tmp_path / "y")
    assert len(hub.gets("config.json")) == 2
    assert list(tmp_path.glob("y*")) == []


def test_no_more_is_taken_than_was_told(hub: HubStandIn, tmp_path: Path) -> None:
    """A server that never ends must not fill the disk."""
    hub.claims[NAME] = 100_000
    file = client.list_files(REPO).file(NAME)
    taken = [0]

    def step(count: int) -> None:
        taken.append(taken[-1] + count)

    with pytest.raises(CheckpointError, match="arrived damaged twice"):
        client.download(file, tmp_path / "x", step=step)
    assert (max(taken), taken[-1]) == (100_000, 0)


def test_a_file_that_is_there_is_checked_not_fetched(hub: HubStandIn, tmp_path: Path) -> None:
    file = client.list_files(REPO).file(NAME)
    (tmp_path / "x").write_bytes(BIG)
    client.download(file, tmp_path / "x")
    assert hub.gets(NAME) == []
    (tmp_path / "x").write_bytes(BIG[:-1] + b"!")
    client.download(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG


def test_without_hashes_in_the_listing_the_file_is_asked(hub: HubStandIn, tmp_path: Path) -> None:
    hub.no_hashes = True
    listing = client.list_files(REPO)
    for name, content in ((NAME, BIG), ("config.json", SMALL)):
        client.download(listing.file(name), tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == content
        (tmp_path / "x").unlink()
    assert [a.method for a in hub.asked].count("HEAD") == 2


def test_busy_and_failing_servers_are_asked_again(hub: HubStandIn, tmp_path: Path) -> None:
    hub.refusals["/api/models"] = [(503, {}), (429, {"Retry-After": "0"})]
    hub.refusals["/storage/"] = [(500, {}), (502, {})]
    client.download(client.list_files(REPO).file(NAME), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG


@pytest.mark.parametrize(
    ("status", "text", "seconds"),
    [(429, "7", 7), (503, "7200", 60), (429, "soon", 0), (429, "", 0), (500, "7", 0)],
)
def test_a_server_may_ask_for_a_minute_at_most(status: int, text: str, seconds: float) -> None:
    class Refused(HfHubHTTPError):
        def __init__(self) -> None:
            self.response = SimpleNamespace(status_code=status, headers={"Retry-After": text})

    assert client._asked(Refused()) == seconds


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((500, {}), "fails to give me/weights (error 500): run again later"),
        ((401, {}), "set a valid HF_TOKEN"),
        ((403, {}), "gives no access to me/weights (error 403)"),
        ((403, {"X-Error-Code": "GatedRepo"}), "asks for consent: accept its terms at"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "There is no me/weights at"),
        ((200, {}), "does not answer as a hub does"),
    ],
)
def test_refusals_say_what_to_do(
    hub: HubStandIn, answer: tuple[int, dict[str, str]], text: str
) -> None:
    hub.refusals["/api/models"] = [answer] * 9
    with pytest.raises(NetworkError) as caught:
        client.list_files(REPO)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    retried = answer[0] == 500
    assert len(hub.asked) == (4 if retried else 1)


def test_the_token_stays_at_the_hub(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(NetworkError, match="HF_TOKEN"):
        client.list_files(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    client.download(client.list_files(REPO).file(NAME), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG
    assert all("authorization" not in a.headers for a in hub.gets(NAME))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "a\\..\\evil",
        "C:evil",
        "a//b",
        "nul.txt",
        "a /b",
        "",
    ],
)
def test_a_listing_that_leads_outside_is_refused(hub: HubStandIn, name: str) -> None:
    hub.files[REPO][name] = b"evil"
    with pytest.raises(CheckpointError, match="names a file outside it"):
        client.list_files(REPO)


def test_cancel_keeps_the_part_even_when_the_server_is_silent(
    hub: HubStandIn, tmp_path: Path
) -> None:
    gate = hub.gates[NAME] = threading.Event()
    file = client.list_files(REPO).file(NAME)
    token = CancelToken()
    arrived = threading.Event()
    half, counted = hub.before_gate(NAME), [0]

    def step(count: int) -> None:
        counted[0] += count
        size = client.partial(file, tmp_path / "x").stat().st_size
        assert size == counted[0], "what is counted is on the disk"
        if size == half:
            arrived.set()

    def press() -> None:
        arrived.wait(20)
        token.cancel()

    threading.Thread(target=press).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        client.interruptible(
            lambda stop: client.download(file, tmp_path / "x", step=step, cancel=stop), token
        )
    assert time.monotonic() - started < 5  # the silence would last 10 s and more
    part = client.partial(file, tmp_path / "x").read_bytes()
    assert len(part) == half < len(BIG) and part == BIG[:half]
    gate.set()
    time.sleep(0.2)
    assert client.partial(file, tmp_path / "x").read_bytes() == part
    client.download(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG


def test_cancel_while_a_file_is_checked_keeps_it(hub: HubStandIn, tmp_path: Path) -> None:
    """Hashing gigabytes takes a while, too."""
    file, token = client.list_files(REPO).file(NAME), CancelToken()

    def say(text: str) -> None:
        if text == f"Checking {NAME}":
            token.cancel()

    with pytest.raises(Cancelled):
        client.download(file, tmp_path / "x", say=say, cancel=token)
    assert client.partial(file, tmp_path / "x").read_bytes() == BIG
    asked = len(hub.asked)
    client.download(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG and len(hub.asked) == asked


def test_silence_counts_as_a_broken_connection(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    gate = hub.gates[NAME] = threading.Event()
    threading.Timer(0.8, gate.set).start()
    client.download(client.list_files(REPO).file(NAME), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BIG
    begins = [a.begins for a in hub.gets(NAME)]
    assert len(begins) > 1 and begins == sorted(set(begins)) and begins[0] == 0


def test_a_folder_that_cannot_be_written_is_one_line(hub: HubStandIn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="in the way; choose another folder"):
        client.download(client.list_files(REPO).file(NAME), tmp_path / "file" / "x")


def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "my-mirror:8080")
    with pytest.raises(InputError, match="begins with https"):
        client.list_files(REPO)


def test_a_part_that_is_too_long_counts_as_the_whole_file(tmp_path: Path) -> None:
    file = client.HubFile(REPO, "0" * 40, NAME, 10, "a" * 64)
    assert _present(file, tmp_path / "x") == 0
    client.partial(file, tmp_path / "x").write_bytes(bytes(4))
    assert _present(file, tmp_path / "x") == 4
    (tmp_path / "x").write_bytes(bytes(12))
    assert _present(file, tmp_path / "x") == 10


# -- asking again ----------------------------------------------------------------------


class _Answer(HfHubHTTPError):
    """A refusal of the hub, as its client raises it."""

    def __init__(self, status: int, **headers: str) -> None:
        Exception.__init__(self, f"{status} of a server")
        self.response = SimpleNamespace(status_code=status, headers=headers)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, which pass at once."""
    waits: list[float] = []
    monkeypatch.setattr(client, "_wait", lambda seconds, cancel: waits.append(seconds))
    return waits


def _raising(*errors: Exception | None) -> Callable[[], str]:
    left = list(errors)

    def work() -> str:
        error = left.pop(0)
        if error is not None:
            raise error
        return "done"

    return work


@pytest.mark.parametrize(
    ("errors", "waits", "ends"),
    [
        ([], [], True),
        ([503], [1], True),
        ([500, 502, 408, 429], [1, 2, 4, 8], True),
        ([500] * 5, [1, 2, 4, 8], False),
        ([404], [], False),
        ([403], [], False),
        ([499], [], False),
        ([407], [], False),
        ([500, 404], [1], False),
    ],
)
def test_faults_that_may_pass_are_waited_for(
    waited: list[float], errors: list[int], waits: list[float], ends: bool
) -> None:
    work = _raising(*map(_Answer, errors), None)
    if ends:
        assert client.attempts(work, REPO, None) == "done"
    else:
        with pytest.raises(NetworkError):
            client.attempts(work, REPO, None)
    assert waited == waits


def test_a_server_that_asks_for_more_time_gets_it(waited: list[float]) -> None:
    asking = [_Answer(429, **{"Retry-After": "30"}), _Answer(503, **{"Retry-After": "1"})]
    assert client.attempts(_raising(*asking, None), REPO, None) == "done"
    assert waited == [30, 2]


def test_what_arrives_begins_the_count_anew(waited: list[float]) -> None:
    have, attempts = 0, iter([5, 5, 5, 9, 9, 9, 9])

    def work() -> str:
        nonlocal have
        try:
            have = next(attempts)
        except StopIteration:
            return "done"
        raise _Answer(500)

    assert client.attempts(work, REPO, None, lambda: have) == "done"
    assert waited == [1, 2, 4, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OfflineModeIsEnabled("x"),
            "HF_HUB_OFFLINE is set, so me/weights/a.bin is not fetched: unset it, or place the "
            "model's folder by hand.",
        ),
        (
            _Answer(401),
            "https://hub.test gives no access to me/weights/a.bin (error 401): sign in with 'hf "
            "auth login' or set a valid HF_TOKEN, accept the terms at https://hub.test/me/weights "
            "if it asks for consent, then run again.",
        ),
        (
            _Answer(404),
            "There is no me/weights/a.bin at https://hub.test (error 404): check HF_ENDPOINT, or "
            "update flowrvs.",
        ),
        (
            _Answer(500),
            "https://hub.test fails to give me/weights/a.bin (error 500): run again later to go "
            "on; what has arrived is kept.",
        ),
        (
            client._CutShort("it\n ended"),
            "me/weights/a.bin cannot be fetched from https://hub.test (it ended): check the "
            "connection and the proxy, then run again to go on.",
        ),
        (
            client._CutShort(""),
            "me/weights/a.bin cannot be fetched from https://hub.test (_CutShort): check the "
            "connection and the proxy, then run again to go on.",
        ),
    ],
)
def test_what_a_fault_says(
    waited: list[float], monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    monkeypatch.setattr(client.constants, "ENDPOINT", "https://hub.test")
    with pytest.raises(NetworkError) as caught:
        client.attempts(_raising(*[error] * 9), REPO, None, name="a.bin")
    assert str(caught.value) == text and caught.value.__cause__ is error
    assert len(waited) == (4 if "later" in text or "connection" in text else 0)


def test_a_wait_ends_with_a_cancel() -> None:
    token = CancelToken()
    client._wait(0.0, token)
    threading.Timer(0.05, token.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        client._wait(30, token)
    assert time.monotonic() - begun < 10


def test_work_on_another_thread_gives_its_result_or_error() -> None:
    seen: list[CancelToken] = []

    def work(stop: CancelToken) -> str:
        seen.append(stop)
        assert threading.current_thread().name == "flowrvs-fetch" and not stop.cancelled
        return "done"

    assert client.interruptible(work, None) == "done"
    assert seen[0].cancelled, "what is left of it must not write any more"

    def fails(stop: CancelToken) -> None:
        seen.append(stop)
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        client.interruptible(fails, CancelToken())
    assert seen[1].cancelled
    token, told = CancelToken(), threading.Event()

    def silent(stop: CancelToken) -> None:
        while not stop.cancelled:
            time.sleep(0.005)
        told.set()

    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(Cancelled):
        client.interruptible(silent, token)
    assert told.wait(5)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.json", True),
        ("console.txt", True),
        ("a.b/c", True),
        ("COM.d/nul", False),
        ("aux", False),
        ("Con.json", False),
        ("a/prn.txt/b", False),
        ("a./b", False),
        ("a /b", False),
        ("a/b ", False),
        ("/a", False),
        ("..", False),
        ("a/..", False),
        ("./a", False),
        ("a/", False),
        ("a\\b", False),
        ("a:b", False),
        ('a"b', False),
        ("a?", False),
        ("a\x1f", False),
    ],
)
def test_names_that_stay_in_their_folder_everywhere(name: str, inside: bool) -> None:
    assert client._is_inside(name) == inside


def _entry(**more: object) -> SimpleNamespace:
    return SimpleNamespace(**{"size": 3, "blob_id": "b" * 40, "lfs": None} | more)


def test_hashes_of_a_listing() -> None:
    lfs = SimpleNamespace(size=9, sha256="c" * 64)
    listing = client.Listing(REPO, "r", {"a": _entry(), "b": _entry(lfs=lfs)})
    assert listing.file("a") == client.HubFile(REPO, "r", "a", 3, "b" * 40)
    assert listing.file("b") == client.HubFile(REPO, "r", "b", 9, "c" * 64)
    for wrong in ("b" * 39, "b" * 41, "B" * 40, "c" * 63, "c" * 65, "b" * 52):
        with pytest.raises(CheckpointError) as caught:
            client.Listing(REPO, "r", {"a": _entry(blob_id=wrong)}).file("a")
        assert str(caught.value) == (
            "The hub gives no hash of me/weights/a, so it cannot be checked; unset HF_ENDPOINT to "
            "ask the official one."
        )


def test_a_file_is_known_by_size_and_either_hash(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "x"
    path.write_bytes(SMALL)
    git = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
    for digest in (hashlib.sha256(SMALL).hexdigest(), git):
        counts: list[int] = []
        file = client.HubFile(REPO, "r", "x", len(SMALL), digest)
        assert file.matches(path, step=counts.append) and counts == [len(SMALL)]
        assert not client.HubFile(REPO, "r", "x", len(SMALL) + 1, digest).matches(path)
        assert not client.HubFile(REPO, "r", "x", len(SMALL), digest[::-1]).matches(path)
        assert client.partial(file, path) == tmp_path / f"x.{digest[:12]}.part"
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            file.matches(path, cancel=token)


@pytest.mark.parametrize("sha", [None, "", "a" * 39, "main"])
def test_a_listing_names_its_commit(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, sha: str | None
) -> None:
    answer = SimpleNamespace(sha=sha, siblings=None)
    monkeypatch.setattr(client.HfApi, "model_info", lambda *a, **k: answer)
    with pytest.raises(CheckpointError) as caught:
        client.list_files(REPO)
    assert str(caught.value) == "The hub names no commit of me/weights; nothing was fetched."
    answer.sha = "a" * 40
    assert client.list_files(REPO) == client.Listing(REPO, "a" * 40, {})


@pytest.mark.parametrize("address", ["ftp://a", "https://", "hub", "file:///a"])
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(client.constants, "ENDPOINT", address)
    with pytest.raises(InputError) as caught:
        client.list_files(REPO)
    assert str(caught.value) == (
        f"HF_ENDPOINT is {address!r}, which is no address: it begins with https://."
    )


@pytest.mark.parametrize("lacks", [{"size": None}, {"blob_id": None}, {"blob_id": ""}])
def test_what_a_listing_lacks_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, lacks: dict[str, object]
) -> None:
    asked: list[str] = []
    head = SimpleNamespace(size=11, etag="d" * 64)
    monkeypatch.setattr(client, "get_hf_file_metadata", lambda url: (asked.append(url), head)[1])
    file = client.Listing(REPO, "r", {"a/b": _entry(**lacks)}).file("a/b")
    assert file == client.HubFile(REPO, "r", "a/b", 11, "d" * 64)
    assert len(asked) == 1 and asked[0].endswith("/me/weights/resolve/r/a/b")


class _Quiet:
    """A session whose answers end early, without anybody saying so."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)
        self.asked: list[tuple[str, str | None]] = []

    @contextmanager
    def stream(self, method: str, url: str, headers: dict, timeout: float) -> Iterator[object]:
        begin = int(headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((headers["Accept-Encoding"], headers.get("Range")))
        end = self.ends.pop(0)
        told = {"Content-Range": f"bytes {begin}-{len(BIG)}"} if begin else {}
        pieces = [BIG[at : min(at + 1000, end)] for at in range(begin, end, 1000)]
        yield SimpleNamespace(headers=told, iter_bytes=lambda: iter(pieces))


def test_an_answer_that_ends_early_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waited: list[float]
) -> None:
    import hashlib

    session, said = _Quiet(2500, 2500, len(BIG)), list[str]()
    monkeypatch.setattr(client, "get_session", lambda: session)
    monkeypatch.setattr(client, "hf_raise_for_status", lambda answer: None)
    file = client.HubFile(REPO, "r", NAME, len(BIG), hashlib.sha256(BIG).hexdigest())
    client.download(file, tmp_path / "x", say=said.append)
    assert (tmp_path / "x").read_bytes() == BIG and said == [f"Checking {NAME}"]
    plain = "identity"
    assert session.asked == [(plain, None), (plain, "bytes=2500-"), (plain, "bytes=2500-")]
    # The first brought something, so it was not in vain; the second brought nothing.
    assert waited == [1, 2]
