"""One file from the hub: resumed, checked, retried, stopped."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

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
