"""Tokens: the format as a short reference gives it, refusals and their causes, the key ring, the memo, SHA-256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import pickle
import struct

import pytest

from fastroute._core.token import TokenCodec, sha256
from fastroute.errors import UsageError

OLD, NEW, OTHER = (bytes([n]) * 16 + bytes(range(n, n + 16)) for n in (1, 2, 3))
KEY = bytes(range(16))
FIELDS = (KEY, 0x0123456789ABCDEF, 77, 3, 29_000_000)


def codec(*secrets: bytes, fleet: str = "fr", purpose: str = "test") -> TokenCodec:
    return TokenCodec(list(secrets) or [NEW], fleet, purpose)


def text64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def mac256(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def reference(secret: bytes, payload: bytes, *, fleet: bytes = b"fr", purpose: bytes = b"test") -> bytes:
    """The token of a payload whose hint is already masked."""
    key = mac256(secret, b"fastroute token key v1" + prefixed(purpose))
    key_id = text64(mac256(key, b"key id")[:6])
    context = b"v1" + prefixed(purpose) + prefixed(fleet) + prefixed(key_id)
    context += bytes(-len(context) % 64)
    return b".".join([b"v1", key_id, text64(payload), text64(mac256(key, context + payload)[:16])])


def payload_of(token: bytes) -> bytes:
    return base64.urlsafe_b64decode(token.split(b".")[2] + b"==")


def parts(token: str) -> list[str]:
    return token.split(".")


# -- format ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(200), 1000, 4096])
def test_sha256_of_both_implementations_is_hashlibs(size: int) -> None:
    data = os.urandom(size)
    assert sha256(data) == sha256(data, portable=True) == hashlib.sha256(data).digest(), data.hex()


def test_a_token_says_what_was_signed() -> None:
    assert codec().verify_text(codec().sign_text(*FIELDS)) == FIELDS


@pytest.mark.parametrize(
    "fields", [(bytes(16), 0, 0, 0, 0), (b"\xff" * 16, 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1)]
)
def test_every_field_keeps_its_full_range(fields: tuple[bytes, int, int, int, int]) -> None:
    assert codec().verify_text(codec().sign_text(*fields)) == fields


def test_the_text_is_what_the_reference_makes() -> None:
    token = codec().sign_text(*FIELDS).encode()
    assert len(token) == 89
    payload = payload_of(token)
    assert payload[:32] == KEY + struct.pack("<QII", 77, 3, 29_000_000)
    assert token == reference(NEW, payload)


@pytest.mark.parametrize("fleet", ["", "f" * 60, "f" * 255, "ü" * 20])
def test_context_of_any_length_is_what_the_reference_makes(fleet: str) -> None:
    made = codec(fleet=fleet).sign_text(*FIELDS).encode()
    assert made == reference(NEW, payload_of(made), fleet=fleet.encode())


def test_the_hint_hides_the_servers_digest() -> None:
    one = codec().sign_text(KEY, 5, 1, 1, 1).encode()
    two = codec().sign_text(KEY[::-1], 5, 1, 1, 1).encode()
    three = codec(OLD).sign_text(KEY, 5, 1, 1, 1).encode()
    hints = {payload_of(token)[32:] for token in (one, two, three)}
    assert len(hints) == 3
    assert struct.pack("<Q", 5) not in hints


def test_a_servers_digest_depends_on_fleet_and_name_and_no_secret() -> None:
    assert codec(OLD).server_digest("web-1") == codec(NEW, OLD).server_digest("web-1") != 0
    assert len({codec(fleet=fleet).server_digest(name) for fleet in ("a", "ab") for name in ("bc", "c")}) == 4


def test_fields_that_later_versions_add_behind_the_payload_are_passed_over() -> None:
    payload = payload_of(codec().sign_text(*FIELDS).encode())
    for more in (1, 7, 32):
        assert codec().verify_text(reference(NEW, payload + b"x" * more)) == FIELDS
    assert codec().verify_text(reference(NEW, payload + b"x" * 33)) == "malformed"


# -- refusals ----------------------------------------------------------------------------------------------------------


def changed(part: int, value: str) -> str:
    listed = parts(codec().sign_text(*FIELDS))
    listed[part] = value
    return ".".join(listed)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "malformed"),
        ("v1", "malformed"),
        ("...", "malformed"),
        ("10.0.0.5:8080", "malformed"),
        ("a" * 5000, "malformed"),
        ("é", "malformed"),
        (b"\xff\xfe", "malformed"),
        (changed(0, ""), "malformed"),
        (changed(0, "V1"), "malformed"),
        (changed(0, "v"), "malformed"),
        (changed(0, "v1a"), "malformed"),
        (changed(0, "v2"), "version"),
        (changed(0, "v01"), "version"),
        (changed(0, "v12"), "version"),
        (changed(1, ""), "malformed"),
        (changed(1, "zz"), "unknown_key"),
        (changed(1, "zzzzzzzz"), "unknown_key"),
        (changed(1, "../../etc/passwd"), "malformed"),
        (changed(2, ""), "malformed"),
        (changed(2, "AAAA"), "malformed"),
        (changed(2, "A" * 54), "bad_mac"),
        (changed(2, "A" * 53), "malformed"),
        (changed(2, "A" * 97), "malformed"),
        (changed(3, ""), "malformed"),
        (changed(3, "A" * 11), "malformed"),
        (changed(3, "A" * 21), "malformed"),
        (changed(3, "A" * 22), "bad_mac"),
        (changed(3, "A" * 21 + "B"), "malformed"),
        (changed(3, "A" * 43), "malformed"),
        (codec().sign_text(*FIELDS) + "=", "malformed"),
        (codec().sign_text(*FIELDS) + ".", "malformed"),
        ('"' + codec().sign_text(*FIELDS) + '"', "malformed"),
        (codec().sign_text(*FIELDS) + "\0", "malformed"),
    ],
)
def test_refusals_have_one_cause_and_are_counted(text: str | bytes, cause: str) -> None:
    verifier = codec()
    assert verifier.verify_text(text) == cause
    assert verifier.rejected() == {**dict.fromkeys(("malformed", "unknown_key", "bad_mac", "version"), 0), cause: 1}
    assert verifier.accepted() == 0


def test_no_single_changed_character_verifies() -> None:
    verifier, token = codec(), codec().sign_text(*FIELDS)
    assert verifier.verify_text(token) == FIELDS
    for at in range(len(token)):
        for character in "A_-.9v=":
            if token[at] != character:
                assert isinstance(verifier.verify_text(token[:at] + character + token[at + 1 :]), str)


def test_one_token_has_one_text() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for part, unused in ((2, 2), (3, 4)):  # 40 bytes leave 2 bits unused, 16 bytes 4
        listed = parts(codec().sign_text(*FIELDS))
        last = alphabet.index(listed[part][-1])
        for bits in range(1, 1 << unused):
            other = list(listed)
            other[part] = listed[part][:-1] + alphabet[last | bits]
            assert codec().verify_text(".".join(other)) == "malformed"


def test_tokens_of_another_fleet_purpose_or_secret_do_not_verify() -> None:
    token = codec().sign_text(*FIELDS)
    assert codec(fleet="other").verify_text(token) == "bad_mac"
    assert codec(purpose="other").verify_text(token) == "unknown_key"
    assert codec(OTHER).verify_text(token) == "unknown_key"


def test_purpose_and_fleet_do_not_run_into_each_other() -> None:
    tokens = {codec(fleet=fleet, purpose="p").sign_text(*FIELDS) for fleet in ("a", "aa", "a\0", "")}
    assert len(tokens) == 4


# -- key ring ----------------------------------------------------------------------------------------------------------


def test_rotation_in_three_steps_refuses_nobody() -> None:
    before, spread, turned, after = codec(OLD), codec(OLD, NEW), codec(NEW, OLD), codec(NEW)
    by_old, by_new = before.sign_text(*FIELDS), turned.sign_text(*FIELDS)
    assert by_old == spread.sign_text(*FIELDS) != by_new
    for verifier in (before, spread, turned):
        assert verifier.verify_text(by_old) == FIELDS
    for verifier in (spread, turned, after):
        assert verifier.verify_text(by_new) == FIELDS
    assert after.verify_text(by_old) == "unknown_key"


def test_a_text_tells_which_key_signed_it() -> None:
    ring = codec(NEW, OLD)
    assert ring.signed_by(ring.sign_text(*FIELDS).encode()) == 0
    assert ring.signed_by(codec(OLD).sign_text(*FIELDS).encode()) == 1
    assert ring.signed_by(b"v1.x") is None


@pytest.mark.parametrize(
    "secrets",
    [[], [b"short"], [NEW, NEW], [NEW, b"x" * 31], ["a" * 40], [bytes([n]) * 32 for n in range(9)]],
)
def test_a_ring_that_cannot_be_used_is_refused_without_showing_it(secrets: list[bytes]) -> None:
    with pytest.raises(UsageError) as caught:
        TokenCodec(secrets, "fr", "test")
    for secret in secrets:
        assert repr(secret) not in str(caught.value)
        assert repr(secret)[2:-1] not in str(caught.value)


def test_a_codec_shows_no_secret_and_is_not_pickled() -> None:
    ring = codec(b"this-is-a-secret-of-32-bytes-abc")
    assert "secret-of" not in repr(ring)
    assert repr(ring) == "TokenCodec(fleet='fr', purpose='test', keys=1)"
    with pytest.raises(TypeError):
        pickle.dumps(ring)


# -- memo --------------------------------------------------------------------------------------------------------------


def test_a_remembered_text_answers_as_the_first_time() -> None:
    verifier = codec()
    tokens = [codec().sign_text(os.urandom(16), n, n, n, n).encode() for n in range(3000)]  # more than the memo holds
    said = [verifier.verify_text(token) for token in tokens]
    assert [entry[1] for entry in said] == list(range(3000))
    for token, first in zip(tokens[::-1], said[::-1], strict=True):
        assert verifier.verify_text(token) == first == verifier.verify_text(token)
    assert verifier.accepted() == 9000
    assert sum(verifier.rejected().values()) == 0


def test_a_text_that_shares_the_tail_of_a_remembered_one_is_not_taken_for_it() -> None:
    verifier, token = codec(), codec().sign_text(*FIELDS)
    assert verifier.verify_text(token) == FIELDS
    other = ("B" if token[20] == "A" else "A").join((token[:20], token[21:]))
    assert verifier.verify_text(other) == "bad_mac"
    assert verifier.verify_text(token[1:]) == "malformed"
    assert verifier.verify_text(token) == FIELDS


def test_forgetting_changes_no_answer() -> None:
    verifier, token = codec(), codec().sign_text(*FIELDS)
    assert verifier.verify_text(token) == FIELDS
    verifier.forget()
    assert verifier.verify_text(token) == FIELDS


@pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 17])
def test_an_affinity_key_is_sixteen_bytes(key: bytes) -> None:
    with pytest.raises(UsageError):
        codec().sign_text(key, 1, 1, 1, 1)


@pytest.mark.parametrize("what", ["sign", "verify_remembered", "verify_fresh"])
def test_the_codec_can_be_asked_many_times(what: str) -> None:
    verifier, token = codec(), codec().sign_text(*FIELDS).encode()
    verifier.repeat(what, token, 10)
    assert verifier.accepted() == (11 if what == "verify_remembered" else 1)
    with pytest.raises(UsageError):
        verifier.repeat(what, b"x", 10)
    with pytest.raises(UsageError):
        verifier.repeat("other", token, 10)
