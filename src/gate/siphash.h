/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SipHash-2-4 with 128 bits (Aumasson, Bernstein): a hash nobody can aim without the seed. For names that outsiders choose and
 * tables that all share.
 *
 *     siphash_t hash;
 *     siphash_begin(&hash, seed);
 *     siphash_add(&hash, bytes, len);
 *     siphash_end(&hash, out);
 */
#ifndef CS_GATE_SIPHASH_H
#define CS_GATE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t v[4];
    uint64_t word; /* the bytes that do not make eight yet */
    uint64_t len;
} siphash_t;

static inline uint64_t siphash_rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void siphash_rounds(uint64_t v[4], int rounds)
{
    while (rounds--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = siphash_rotate(v[1], 13) ^ v[0];
        v[3] = siphash_rotate(v[3], 16) ^ v[2];
        v[0] = siphash_rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = siphash_rotate(v[1], 17) ^ v[2];
        v[3] = siphash_rotate(v[3], 21) ^ v[0];
        v[2] = siphash_rotate(v[2], 32);
    }
}

static inline void siphash_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    siphash_rounds(v, 2);
    v[0] ^= word;
}

static inline void siphash_begin(siphash_t *hash, const uint64_t seed[2])
{
    hash->v[0] = seed[0] ^ UINT64_C(0x736f6d6570736575);
    hash->v[1] = seed[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee;
    hash->v[2] = seed[0] ^ UINT64_C(0x6c7967656e657261);
    hash->v[3] = seed[1] ^ UINT64_C(0x7465646279746573);
    hash->word = hash->len = 0;
}

static inline void siphash_add(siphash_t *hash, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;

    while (len--) {
        hash->word |= (uint64_t)*p++ << hash->len % 8 * 8;
        if (++hash->len % 8 == 0) {
            siphash_word(hash->v, hash->word);
            hash->word = 0;
        }
    }
}

static inline void siphash_end(siphash_t *hash, uint64_t out[2])
{
    uint64_t *v = hash->v;

    siphash_word(v, hash->word | hash->len << 56);
    v[2] ^= 0xee;
    siphash_rounds(v, 4);
    out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    siphash_rounds(v, 4);
    out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
