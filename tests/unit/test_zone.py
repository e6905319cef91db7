"""The zone's segment and directory: who shares what, and what is refused with which words."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastroute._core import zone as zone_module
from fastroute._core.affinity_table import AffinityTable, Record, fingerprint_for_test
from fastroute._core.zone import Zone
from fastroute.errors import ConfigError, UsageError

SIZE = "256KiB"


@pytest.fixture
def name() -> Iterator[str]:
    """A zone name that nobody else uses; its segment is gone afterwards."""
    unique = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    yield unique
    Zone.unlink(unique)


def test_two_openers_of_a_name_share_slots_and_records(name: str) -> None:
    with Zone(name, SIZE) as one, Zone(name, SIZE) as two:
        assert one.server_slot("fr", "app", "web-1") == two.server_slot("fr", "app", "web-1") == 0
        assert two.server_slot("fr", "app", "web-2") == one.server_slot("fr", "app", "web-2") == 1
        key, record = fingerprint_for_test(1), Record(7, 1, 100, 10, 1)
        AffinityTable(one).claim_record(key, 10, record)
        assert AffinityTable(two).lookup_record(key, 10)[1] == record


def test_a_zone_outlives_its_processes_until_it_is_unlinked(name: str) -> None:
    with Zone(name, SIZE) as zone:
        assert [zone.server_slot("fr", "app", f"web-{i}") for i in range(3)] == [0, 1, 2]
    with Zone(name, SIZE) as zone:
        assert zone.server_slot("fr", "app", "web-2") == 2
    assert Zone.unlink(name)
    assert not Zone.unlink(name)
    with Zone(name, SIZE) as zone:
        assert zone.server_slot("fr", "app", "web-2") == 0


def test_a_private_zone_is_shared_with_nobody() -> None:
    with Zone(None, SIZE) as one, Zone(None, SIZE) as two:
        assert (one.name, one.path, one.shared) == (None, None, False)
        one.server_slot("fr", "app", "web-1")
        assert two.statistics().servers == 0


def test_the_segment_is_only_the_owners_and_named_with_layout_and_user(name: str) -> None:
    with Zone(name, SIZE) as zone:
        assert zone.path == f"/dev/shm/fastroute.{zone_module.LAYOUT}.{os.geteuid()}.{name}"
        facts = os.stat(zone.path)
        assert facts.st_mode & 0o777 == 0o600
        assert facts.st_blocks * 512 >= zone.size_bytes, "the memory is not reserved"


def test_a_segment_of_another_size_is_refused_with_what_was_found_and_asked(name: str) -> None:
    with Zone(name, "512KiB") as zone, pytest.raises(ConfigError) as refusal:
        Zone(name, SIZE)
    message = str(refusal.value)
    assert "524288" in message
    assert "262144" in message
    assert f"rm {zone.path}" in message


def test_a_segment_of_another_identity_is_refused(name: str) -> None:
    with (
        Zone(name, SIZE, b"a" * 16),
        Zone(name, SIZE, b"a" * 16),
        pytest.raises(ConfigError, match=r"another identity secret.*rm /dev/shm/"),
    ):
        Zone(name, SIZE, b"b" * 16)


def test_a_file_that_is_no_zone_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"fastroute.{zone_module.LAYOUT}.{os.geteuid()}.{name}"
    path.write_bytes(b"something else")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not a zone of this layout"):
        Zone(name, SIZE, directory=str(tmp_path))
    assert path.read_bytes() == b"something else"


def test_a_truncated_segment_is_refused(name: str, tmp_path: Path) -> None:
    with Zone(name, SIZE, directory=str(tmp_path)) as zone:
        assert zone.path is not None
        path = zone.path
    os.truncate(path, 100_000)
    with pytest.raises(ConfigError, match="is cut to 100000 of its 262144 bytes"):
        Zone(name, SIZE, directory=str(tmp_path))


def test_a_symbolic_link_is_not_followed(name: str, tmp_path: Path) -> None:
    with Zone(name, SIZE, directory=str(tmp_path)) as zone:
        assert zone.path is not None
        os.rename(zone.path, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", zone.path)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        Zone(name, SIZE, directory=str(tmp_path))


def test_a_segment_that_others_may_open_is_refused(name: str) -> None:
    with Zone(name, SIZE) as zone:
        assert zone.path is not None
        os.chmod(zone.path, 0o660)
    with pytest.raises(ConfigError, match="has permissions 660"):
        Zone(name, SIZE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_segment_of_another_user_is_refused(name: str) -> None:
    with Zone(name, SIZE) as zone:
        assert zone.path is not None
        os.chown(zone.path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        Zone(name, SIZE)


def test_too_little_room_names_what_other_versions_left_there(name: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        _names_other_versions(name, directory)


def _names_other_versions(name: str, directory: str) -> None:
    room = os.statvfs(directory)
    wanted = room.f_bavail * room.f_frsize + (64 << 20)
    if not room.f_blocks or wanted > 64 << 30:
        pytest.skip("this file system has no limit below the largest zone")
    left = Path(directory) / f"fastroute.2.{os.geteuid()}.{name}"
    left.touch()
    (Path(directory) / f"fastroute.2.{os.geteuid()}.another").touch()
    with pytest.raises(ConfigError, match="of other versions of fastroute are there too") as caught:
        Zone(name, wanted, directory=directory)
    assert str(left) in str(caught.value)
    assert "another" not in str(caught.value)


def test_too_little_room_is_an_error_that_says_how_much_and_how_to_size_it(name: str) -> None:
    room = os.statvfs("/dev/shm")
    wanted = room.f_bavail * room.f_frsize + (64 << 20)
    if not room.f_blocks or wanted > 64 << 30:
        pytest.skip("this /dev/shm has no limit below the largest zone")
    with pytest.raises(ConfigError, match=r"needs [0-9.]+ MiB in /dev/shm, [0-9.]+ MiB are free: .*--shm-size="):
        Zone(name, wanted)
    assert not Zone.unlink(name)


def test_a_missing_directory_is_a_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be used: No such file"):
        Zone(name, SIZE, directory=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("bad", ["", "a/b", "a b", "x" * 65, "..\0", 7])
def test_bad_names_are_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="zone name"):
        Zone(bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="zone name"):
        Zone.unlink(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["255KiB", "65GiB", "many", -1, 1.5])
def test_bad_sizes_are_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="zone size"):
        Zone(None, bad)  # type: ignore[arg-type]


def test_an_identity_is_sixteen_bytes() -> None:
    with pytest.raises(UsageError, match="identity of 3 bytes"):
        Zone(None, SIZE, b"abc")


def test_concurrent_creators_end_with_one_segment(name: str) -> None:
    barrier, slots = threading.Barrier(8), []

    def open_one(i: int) -> None:
        barrier.wait()
        with Zone(name, "4MiB") as zone:
            slots.append(zone.server_slot("fr", "app", f"web-{i}"))

    threads = [threading.Thread(target=open_one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slots) == list(range(8))


def test_names_that_join_alike_get_their_own_slots() -> None:
    with Zone(None, SIZE) as zone:
        names = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("", "abc", "d"), ("abcd", "", "")]
        assert len({zone.server_slot(*each) for each in names}) == len(names)


def test_a_full_directory_of_servers_is_an_error_and_keeps_what_it_has() -> None:
    with Zone(None, SIZE) as zone:
        slots = [zone.server_slot("fr", "app", f"web-{i}") for i in range(256)]
        assert slots == list(range(256))
        with pytest.raises(UsageError, match=r"directory of 256 servers is full and server 'web-256' of pool 'app'"):
            zone.server_slot("fr", "app", "web-256")
        assert [zone.server_slot("fr", "app", f"web-{i}") for i in range(256)] == slots


def test_a_zone_of_64_mib_has_room_for_16384_servers_and_a_million_records() -> None:
    with Zone(None, "64MiB") as zone:
        assert zone.capacity >= 1_000_000
        assert zone.size_bytes / zone.capacity <= 64
        last = [zone.server_slot("fr", "app", f"web-{i}") for i in range(16384)][-1]
        assert last == 16383


def test_each_pool_has_one_cursor_on_its_own_cache_line(name: str) -> None:
    with Zone(name, SIZE) as one, Zone(name, SIZE) as two:
        addresses = sorted(one.cursor_address("fr", f"pool-{i}") for i in range(256))
        assert all(b - a >= 64 for a, b in itertools.pairwise(addresses))
        ctypes.c_uint64.from_address(one.cursor_address("fr", "pool-9")).value = 41
        assert ctypes.c_uint64.from_address(two.cursor_address("fr", "pool-9")).value == 41
        with pytest.raises(UsageError, match="directory of 256 pools is full"):
            one.cursor_address("fr", "another")


def test_a_cursor_outlives_close_and_a_closed_zone_says_so() -> None:
    zone = Zone(None, SIZE)
    address = zone.cursor_address("fr", "app")
    zone.close()
    zone.close()
    assert ctypes.c_uint64.from_address(address).value == 0
    for call in (zone.statistics, zone.__enter__, lambda: zone.server_slot("a", "b", "c"), lambda: AffinityTable(zone)):
        with pytest.raises(UsageError, match="is closed"):
            call()


def test_a_table_keeps_its_memory_after_close() -> None:
    zone = Zone(None, SIZE)
    table = AffinityTable(zone)
    zone.close()
    assert table.fill_for_test(0, 10, 1, 100) == (10, 0, 0)
    assert table.probe_for_test(0, 10, 1) == 10


def test_opening_and_closing_leaves_no_descriptor_and_no_mapping(name: str) -> None:
    def used() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count(f"fastroute.{zone_module.LAYOUT}.")

    with Zone(name, SIZE):
        pass
    before = used()
    for _ in range(20):
        with Zone(name, SIZE):
            pass
        zone = Zone(name, SIZE)
        AffinityTable(zone)
        del zone
        with pytest.raises(ConfigError):
            Zone(name, "512KiB")
    assert used() == before


def test_no_temporary_file_stays_behind(name: str, tmp_path: Path) -> None:
    with Zone(name, SIZE, directory=str(tmp_path)) as zone:
        assert [str(path) for path in tmp_path.iterdir()] == [zone.path]


def test_a_file_system_without_unnamed_files_works_as_well(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_without_tmpfile(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_without_tmpfile)
    with Zone(name, SIZE, directory=str(tmp_path)) as zone, Zone(name, SIZE, directory=str(tmp_path)) as two:
        assert [str(path) for path in tmp_path.iterdir()] == [zone.path]
        assert zone.server_slot("a", "b", "c") == two.server_slot("a", "b", "c")


def test_a_system_without_proc_works_as_well(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link_without_proc(source: str, *rest: object, **options: object) -> None:
        if source.startswith("/proc/"):
            raise FileNotFoundError(2, "No such file or directory")
        real(source, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_without_proc)
    with Zone(name, SIZE, directory=str(tmp_path)) as zone:
        assert [str(path) for path in tmp_path.iterdir()] == [zone.path]
        assert zone.server_slot("a", "b", "c") == 0


def test_a_zone_of_another_c_library_is_refused(name: str) -> None:
    with Zone(name, SIZE) as zone:
        assert zone.path is not None
        with open(zone.path, "r+b") as segment:
            segment.seek(12)
            segment.write((0x20028).to_bytes(4, "little"))
    with pytest.raises(ConfigError, match="another C library or word size"):
        Zone(name, SIZE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_create_and_attach_a_zone() -> None:
    script = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "name = f'user-{os.getpid()}'\n"
        "with Zone(name, '256KiB') as one, Zone(name, '256KiB') as two:\n"
        "    print(one.server_slot('a', 'b', 'c'), two.server_slot('a', 'b', 'c'), Zone.unlink(name))\n"
    )
    command = [sys.executable, "-c", "from fastroute._core.zone import Zone\n" + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.returncode) == (["0", "0", "True"], 0), done.stderr
