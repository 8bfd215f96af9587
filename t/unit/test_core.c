/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "chatstream/core.h"
#include "tap.h"

static void test_buf(void)
{
    cs_buf_t buf;
    cs_buf_init(&buf, 10);
    is_int(cs_buf_append(&buf, "12345", 5), APR_SUCCESS, "append");
    is_int(cs_buf_append(&buf, "678901", 6), APR_ENOSPC, "append past max is refused");
    is_buf(&buf, "12345", "and leaves the content");
    is_int(cs_buf_append(&buf, "67890", 5), APR_SUCCESS, "append up to max");
    is_int(cs_buf_reserve(&buf, SIZE_MAX), APR_ENOSPC, "a reserve that would wrap is refused");
    is_int(cs_buf_reserve(&buf, 0), APR_SUCCESS, "nothing always fits");
    ok(buf.cap <= 10, "capacity never passes max");
    size_t len;
    char *bytes = cs_buf_detach(&buf, &len);
    is_mem(bytes, len, "1234567890", 10, "detach hands the bytes over");
    free(bytes);
    ok(buf.data == NULL && buf.len == 0, "and leaves an empty buffer");
    is_int(cs_buf_append_str(&buf, "again"), APR_SUCCESS, "which may be used again");
    cs_buf_free(&buf);

    cs_buf_t zero;
    memset(&zero, 0, sizeof(zero));
    cs_buf_free(&zero);
    is_int(cs_buf_append(&zero, NULL, 0), APR_SUCCESS, "a zeroed buffer takes nothing");
    is_int(cs_buf_append(&zero, "x", 1), APR_ENOSPC, "and only nothing");

    cs_buf_init(&buf, SIZE_MAX);
    cs_buf_append_u64(&buf, 0);
    cs_buf_append(&buf, " ", 1);
    cs_buf_append_u64(&buf, UINT64_MAX);
    is_buf(&buf, "0 18446744073709551615", "numbers");
    cs_buf_free(&buf);
}

static void test_json(void)
{
    cs_buf_t buf;
    cs_buf_init(&buf, 4096);
    cs_buf_append_json(&buf, "a\"b\\c/\b\f\n\r\t\x01\x1f\x7f\0z\xc3\xa9", 18);
    is_buf(&buf, "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\\u0000z\xc3\xa9\"", "escapes");
    buf.len = 0;
    cs_buf_append_json_part(&buf, "plain text that is long enough", 30);
    is_buf(&buf, "plain text that is long enough", "a part has no quotes");
    buf.len = 0;
    cs_buf_append_json(&buf, NULL, 0);
    is_buf(&buf, "\"\"", "no text at all");
    cs_buf_free(&buf);

    cs_buf_init(&buf, 12);
    cs_buf_append_str(&buf, "keep");
    is_int(cs_buf_append_json(&buf, "abc\n\n\n\n", 7), APR_ENOSPC, "does not fit");
    is_buf(&buf, "keep", "a failed string leaves nothing behind");
    is_int(cs_buf_append_json_part(&buf, "abc\n\n\n\n", 7), APR_ENOSPC, "nor does its inside");
    is_buf(&buf, "keep", "which leaves nothing either");
    cs_buf_free(&buf);

    /* Every byte at every place of a word, against the definition. */
    int wrong = 0;
    for (int c = 0; c < 256; c++) {
        for (size_t at = 0; at < 20; at++) {
            char text[20];
            memset(text, 'x', sizeof(text));
            text[at] = (char)c;
            int special = c < 0x20 || c == '"' || c == '\\';
            wrong += cs_json_plain_span(text, sizeof(text)) != (special ? at : sizeof(text));
            for (size_t after = at + 1; special && after < 20; after++) {
                text[after] = (char)(c ^ 1); /* a neighbour the borrow could reach */
                wrong += cs_json_plain_span(text, sizeof(text)) != at;
                text[after] = 'x';
            }
        }
    }
    is_int(wrong, 0, "the word-wise scan agrees with the definition");
}

static void test_clock(void)
{
    char text[CS_ISO8601_LEN + 1];
    cs_clock_iso8601(text, APR_INT64_C(1771322400000000) + 7999);
    is_str(text, "2026-02-17T10:00:00.007Z", "ISO 8601, milliseconds cut");
    cs_clock_iso8601(text, 0);
    is_str(text, "1970-01-01T00:00:00.000Z", "the epoch");
    apr_time_t a = cs_clock_mono();
    apr_time_t b = cs_clock_mono();
    ok(a > 0 && b >= a, "the steady clock does not go back");
}

static void test_uuid(void)
{
    cs_uuid_t a, b;
    char text[CS_UUID_LEN + 1];
    is_int(cs_uuid7_make(&a, APR_INT64_C(0x017f22e279b0) * 1000), APR_SUCCESS, "make");
    cs_uuid_format(text, &a);
    is_int(strlen(text), CS_UUID_LEN, "36 characters");
    is_mem(text, 15, "017f22e2-79b0-7", 15, "time and version, as in RFC 9562 appendix A.6");
    ok(strchr("89ab", text[19]) != NULL, "variant");
    is_int(cs_uuid_parse(&b, text, CS_UUID_LEN), APR_SUCCESS, "parse");
    ok(memcmp(&a, &b, sizeof(a)) == 0, "there and back");
    is_int(cs_uuid7_make(&b, APR_INT64_C(0x017f22e279b0) * 1000), APR_SUCCESS, "make another");
    ok(memcmp(&a, &b, sizeof(a)) != 0, "in the same millisecond, and it differs");

    static const char good[] = "017F22E2-79b0-7cc3-98C4-dc0c0c07398f";
    is_int(cs_uuid_parse(&a, good, 36), APR_SUCCESS, "upper case is taken");
    cs_uuid_format(text, &a);
    is_str(text, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "and written in lower case");
    int taken = 0;
    for (size_t len = 0; len < 36; len++) {
        taken += cs_uuid_parse(&b, good, len) == APR_SUCCESS;
    }
    is_int(taken, 0, "nothing shorter is an id");
    for (size_t i = 0; i < 36; i++) {
        static const char bad_chars[] = "g:/@`G \x80";
        for (size_t k = 0; k < sizeof(bad_chars); k++) {
            char copy[37];
            memcpy(copy, good, 37);
            copy[i] = bad_chars[k];
            taken += cs_uuid_parse(&b, copy, 36) == APR_SUCCESS;
        }
    }
    is_int(taken, 0, "nor anything with a wrong character");
    is_int(cs_uuid_parse(&b, "017F22E279b0-7cc3-98C4-dc0c0c07398f-", 36), APR_EINVAL, "nor with misplaced dashes");
}

static void test_hash(void)
{
    ok(cs_hash64("", 0) != cs_hash64("\0", 1), "length counts");
    ok(cs_hash64("a", 1) != cs_hash64("b", 1), "content counts");
    ok(cs_hash64("alice", 5) == UINT64_C(0x3507d047a67c08f4),
       "a value that must never change: rollouts are sticky by it");
    /* Short keys must spread: the table takes the low bits. */
    int used[64] = {0};
    int filled = 0;
    for (int i = 0; i < 640; i++) {
        char key[16];
        int n = snprintf(key, sizeof(key), "user%d", i);
        filled += used[cs_hash64(key, (size_t)n) & 63]++ == 0;
    }
    is_int(filled, 64, "640 short keys reach all of 64 buckets");
}

static void repairs(const char *text, size_t len, const char *want, const char *what)
{
    cs_buf_t buf;
    cs_buf_init(&buf, 1000);
    cs_utf8_append_repaired(&buf, text, len);
    is_mem(buf.data, buf.len, want, strlen(want), "repair: %s", what);
    cs_buf_free(&buf);
}

#define FFFD "\xef\xbf\xbd"

static void test_utf8(void)
{
    static const char sample[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
    ok(cs_utf8_valid(sample, 10), "one to four bytes");
    static const size_t complete[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
    int wrong = 0;
    for (size_t len = 0; len <= 10; len++) {
        wrong += cs_utf8_valid_prefix(sample, len) != complete[len];
        wrong += cs_utf8_incomplete_suffix(sample, len) != len - complete[len];
    }
    is_int(wrong, 0, "a cut text: the valid prefix and the waiting rest");
    ok(cs_utf8_valid(NULL, 0), "nothing is valid");
    ok(!cs_utf8_valid("\xc0\x80", 2), "overlong NUL");
    ok(!cs_utf8_valid("\xed\xa0\x80", 3), "surrogate");
    ok(!cs_utf8_valid("\xf4\x90\x80\x80", 4), "past U+10FFFF");
    ok(cs_utf8_valid("\xf4\x8f\xbf\xbf", 4), "U+10FFFF");
    is_int(cs_utf8_valid_prefix("12345678901234\xff", 15), 14, "a bad byte after a long run");
    is_int(cs_utf8_incomplete_suffix("\xed\xa0", 2), 0, "no byte can complete a surrogate");
    is_int(cs_utf8_incomplete_suffix("\x80\x80", 2), 0, "nor lone continuation bytes");

    repairs("a\xffz", 3, "a" FFFD "z", "a byte that is never UTF-8");
    repairs("\xe2\x82z", 3, FFFD "z", "a cut character is one part");
    repairs("\xe2\x82", 2, FFFD, "also at the end");
    repairs("\xed\xa0\x80", 3, FFFD FFFD FFFD, "a surrogate is three");
    repairs("\xf0\x80\x80\x80", 4, FFFD FFFD FFFD FFFD, "an overlong form is four");
    repairs("\xf0\x9f\x98\xf0\x9f\x98\x80", 7, FFFD "\xf0\x9f\x98\x80", "a whole one after a cut one");
    repairs("", 0, "", "nothing");

    cs_buf_t buf;
    cs_buf_init(&buf, 4);
    cs_buf_append_str(&buf, "x");
    is_int(cs_utf8_append_repaired(&buf, "ab\xff", 3), APR_ENOSPC, "a repair that does not fit");
    is_buf(&buf, "x", "leaves nothing behind");
    cs_buf_free(&buf);
}

int main(void)
{
    test_buf();
    test_json();
    test_clock();
    test_uuid();
    test_hash();
    test_utf8();
    return done_testing();
}
