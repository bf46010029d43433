"""Small codes in 32-bit words: a stream of bits along one axis, the lowest bits first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["WORD_BITS", "pack_words", "pairs_of_nibbles", "unpack_words", "words_for"]

WORD_BITS = 32
Codes = npt.NDArray[np.uint8]


def words_for(count: int, bits: int) -> int:
    """How many 32-bit words hold `count` codes."""
    return -(-count * bits // WORD_BITS)


def unpack_words(words: npt.NDArray[np.int32], bits: int, count: int) -> Codes:
    """The codes [..., count] of 1 to 8 bits in words [..., words]; a code may cross two words."""
    octets: Codes = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 8:
        whole: Codes = octets[..., :count].copy()
        return whole
    if bits == 4:
        return pairs_of_nibbles(octets)[..., :count]
    stream = np.unpackbits(octets, axis=-1, bitorder="little", count=count * bits)
    each = stream.reshape(*stream.shape[:-1], count, bits)
    packed: Codes = np.packbits(each, axis=-1, bitorder="little")
    return packed[..., 0]


def pack_words(codes: Codes, bits: int) -> npt.NDArray[np.int32]:
    """The words [..., words] of codes [..., count], each below 2**bits."""
    if bits == 4:
        count = words_for(codes.shape[-1], bits) * 2 * WORD_BITS // 8
        halves = np.zeros((*codes.shape[:-1], count), np.uint8)
        halves[..., : codes.shape[-1]] = codes
        octets: Codes = halves[..., 0::2] | halves[..., 1::2] << 4
        return octets.view("<i4").astype(np.int32)
    each = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
    stream = each.reshape(*codes.shape[:-1], -1)
    padding = words_for(codes.shape[-1], bits) * WORD_BITS - stream.shape[-1]
    stream = np.pad(stream, [(0, 0)] * (codes.ndim - 1) + [(0, padding)])
    return np.packbits(stream, axis=-1, bitorder="little").view("<i4").astype(np.int32)


def pairs_of_nibbles(octets: Codes) -> Codes:
    """The codes [..., 2 n] in bytes [..., n], the low half of a byte first."""
    return np.stack([octets & 15, octets >> 4], axis=-1).reshape(*octets.shape[:-1], -1)
