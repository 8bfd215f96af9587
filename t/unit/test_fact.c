/* SPDX-License-Identifier: Apache-2.0 */
/* Facts as bytes: there and back, whole and cut, and what decode must refuse. */
#include <stdlib.h>

#include "record/fact.h"
#include "tap.h"

static const char hash_a[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static cs_fact_t full_fact(void)
{
    cs_fact_t fact;

    cs_fact_init(&fact, CS_FACT_CLOSE);
    for (int i = 0; i < CS_TXT_COUNT; i++) {
        cs_fact_set(&fact, i, cs_fact_text_name(i));
    }
    fact.text[CS_TXT_ANSWER] = (cs_text_t){"a\0\xc3\xa9", 4};
    cs_fact_set(&fact, CS_TXT_PROFILE, "");
    for (int i = 0; i < CS_NUM_COUNT; i++) {
        fact.number[i] = i % 2 ? -i : INT64_MAX - i;
    }
    fact.link.seq = UINT64_MAX;
    fact.link.ts = 1771322400000000;
    memcpy(fact.link.salt, hash_a, 32);
    memcpy(fact.link.identity, hash_a, 64);
    memcpy(fact.link.prev_hash, hash_a, 64);
    memcpy(fact.link.hash, hash_a, 64);
    fact.link.hash[0] = 'f';
    return fact;
}

static int same(const cs_fact_t *a, const cs_fact_t *b)
{
    int equal = a->kind == b->kind && !memcmp(a->number, b->number, sizeof(a->number)) && a->link.seq == b->link.seq
                && a->link.ts == b->link.ts && !strcmp(a->link.salt, b->link.salt)
                && !strcmp(a->link.identity, b->link.identity) && !strcmp(a->link.prev_hash, b->link.prev_hash)
                && !strcmp(a->link.hash, b->link.hash);

    for (int i = 0; i < CS_TXT_COUNT; i++) {
        equal = equal && !a->text[i].data == !b->text[i].data && a->text[i].len == b->text[i].len
                && (!a->text[i].data || !memcmp(a->text[i].data, b->text[i].data, a->text[i].len));
    }
    return equal;
}

static void test_round_trip(void)
{
    cs_fact_t fact = full_fact(), back;
    cs_buf_t bytes;
    unsigned taken = 0, wrong = 0;

    cs_buf_init(&bytes, SIZE_MAX);
    is_int(cs_fact_encode(&fact, &bytes), APR_SUCCESS, "a full fact is encoded");
    is_int(cs_fact_decode(&back, bytes.data, bytes.len), APR_SUCCESS, "and decoded");
    ok(same(&fact, &back), "to the same");
    for (size_t len = 0; len < bytes.len; len++) {
        char *cut = malloc(len ? len : 1); /* exactly as long, for ASan */

        memcpy(cut, bytes.data, len);
        /* Cut between two members it is a fact, but never the whole one. */
        if (cs_fact_decode(&back, cut, len) == APR_SUCCESS) {
            taken++;
            wrong += same(&fact, &back);
        }
        free(cut);
    }
    is_int(taken, 1 + CS_TXT_COUNT + CS_NUM_COUNT, "cut, it is taken only between two members");
    is_int(wrong, 0, "and is never the same");
    bytes.len = 0;
    cs_fact_init(&fact, CS_FACT_INCIDENT);
    cs_fact_encode(&fact, &bytes);
    is_int(bytes.len, 1, "an empty fact is its kind");
    ok(cs_fact_decode(&back, bytes.data, bytes.len) == APR_SUCCESS && same(&fact, &back), "and comes back");
    cs_buf_free(&bytes);
}

#define refused(bytes, what)                                                                                           \
    is_int(cs_fact_decode(&fact, bytes, sizeof(bytes) - 1), APR_EINVAL, "decode refuses %s", what)
#define taken(bytes, what) is_int(cs_fact_decode(&fact, bytes, sizeof(bytes) - 1), APR_SUCCESS, "decode takes %s", what)

static void test_decode(void)
{
    cs_fact_t fact;

    refused("", "nothing");
    refused("\x04", "an unknown kind");
    refused("\0", "kind 0");
    taken("\1\1\0\1\0\0\0x", "a text");
    is_mem(fact.text[0].data, fact.text[0].len, "x", 1, "which is there");
    refused("\1\1\0\2\0\0\0x", "a text longer than the bytes");
    refused("\1\1\0\xff\xff\xff\xffx", "a text of 4 GiB");
    refused("\1\1\0\1\0\0\0\xff", "a text that is not UTF-8");
    refused("\1\1\0\1\0\0\0\0", "U+0000 in a name");
    taken("\1\1\14\1\0\0\0\0", "U+0000 in a message");
    refused("\1\1\0\1\0\0\0x\1\0\1\0\0\0x", "a member twice");
    refused("\1\1\1\1\0\0\0x\1\0\1\0\0\0x", "members in the wrong order");
    refused("\1\0\0\1\0\0\0x", "class 0");
    refused("\1\2\0\7\0\0\0\1\1\1\1\1\1\1", "a number of seven bytes");
    refused("\1\2\0\10\0\0\0\0\0\0\0\0\0\0\x80", "a number that means absent");
    refused("\1\3\0\1\0\0\0x", "a short link");
    taken("\1\1\xf0\1\0\0\0\xff\2\xf0\1\0\0\0x\3\1\1\0\0\0x\7\1\0\0\0\0", "members of a later version");
    refused("\1\1\xf0\2\0\0\0x", "but not beyond the end");
}

static void test_encode(void)
{
    cs_fact_t fact = full_fact();
    cs_buf_t bytes;

    cs_buf_init(&bytes, SIZE_MAX);
    fact.link.hash[5] = 'G';
    is_int(cs_fact_encode(&fact, &bytes), APR_EINVAL, "a hash that is not hexadecimal");
    fact.link.hash[5] = 'A';
    is_int(cs_fact_encode(&fact, &bytes), APR_EINVAL, "a hash in upper case");
    fact.link.seq = 0;
    is_int(cs_fact_encode(&fact, &bytes), APR_SUCCESS, "no audit row, no matter");
    bytes.len = 0;
    cs_fact_set(&fact, CS_TXT_NODE, "\xc3");
    is_int(cs_fact_encode(&fact, &bytes), APR_EINVAL, "what is not UTF-8 is refused before it is written");
    cs_fact_set(&fact, CS_TXT_NODE, "n");
    fact.text[CS_TXT_MESSAGE].data = "";
    fact.text[CS_TXT_MESSAGE].len = SIZE_MAX - 100;
    is_int(cs_fact_encode(&fact, &bytes), APR_EINVAL, "a length that would wrap");
    is_int(bytes.len, 0, "an error leaves nothing behind");
    cs_buf_free(&bytes);
    cs_buf_init(&bytes, 20);
    cs_fact_init(&fact, CS_FACT_OPEN);
    cs_fact_set(&fact, CS_TXT_NODE, "0123456789abcdef");
    is_int(cs_fact_encode(&fact, &bytes), APR_ENOSPC, "the buffer's bound holds");
    cs_buf_free(&bytes);
    is_str(cs_fact_kind_name(CS_FACT_CLOSE), "close", "kinds have names");
    is_str(cs_fact_text_name(CS_TXT_DETAIL), "detail", "texts have names");
    is_str(cs_fact_number_name(CS_NUM_PARTIAL), "partial", "numbers have names");
    is_str(cs_fact_text_name(CS_TXT_COUNT), "unknown", "and nothing else has");
}

int main(void)
{
    test_round_trip();
    test_decode();
    test_encode();
    return done_testing();
}
