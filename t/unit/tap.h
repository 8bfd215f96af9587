/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap: the Test Anything Protocol for small C programs.
 *
 *     int main(void)
 *     {
 *         ok(1 + 1 == 2, "sums");
 *         is_int(f(), 3, "f of %s", name);
 *         return done_testing();
 *     }
 */
#ifndef T_UNIT_TAP_H
#define T_UNIT_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int tap_run;
static int tap_failed;

__attribute__((format(printf, 4, 5))) static inline int tap_ok(int pass, const char *file, int line, const char *what,
                                                               ...)
{
    va_list args;
    printf("%sok %d - ", pass ? "" : "not ", ++tap_run);
    va_start(args, what);
    vprintf(what, args);
    va_end(args);
    printf("\n");
    if (!pass) {
        tap_failed++;
        printf("#   failed at %s line %d\n", file, line);
    }
    return pass;
}

/* Prints bytes as one comment line. */
static inline void tap_show(const char *label, const char *bytes, size_t len)
{
    printf("#   %s: ", label);
    for (size_t i = 0; i < len && i < 2000; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '\n') {
            printf("\\n");
        }
        else if (c < 0x20) {
            printf("\\x%02x", c);
        }
        else {
            putchar(c);
        }
    }
    printf("\n");
}

static inline int tap_same(const char *got, size_t got_len, const char *want, size_t want_len)
{
    return got_len == want_len && (want_len == 0 || memcmp(got, want, want_len) == 0);
}

#define ok(cond, ...) tap_ok(!!(cond), __FILE__, __LINE__, __VA_ARGS__)

#define is_int(got, want, ...)                                                                                         \
    do {                                                                                                               \
        long long tap_got = (long long)(got);                                                                          \
        long long tap_want = (long long)(want);                                                                        \
        if (!ok(tap_got == tap_want, __VA_ARGS__)) {                                                                   \
            printf("#   got %lld, want %lld\n", tap_got, tap_want);                                                    \
        }                                                                                                              \
    } while (0)

#define is_mem(got, got_len, want, want_len, ...)                                                                      \
    do {                                                                                                               \
        const char *tap_got = (got);                                                                                   \
        const char *tap_want = (want);                                                                                 \
        size_t tap_got_len = (got_len);                                                                                \
        size_t tap_want_len = (want_len);                                                                              \
        if (!ok(tap_same(tap_got, tap_got_len, tap_want, tap_want_len), __VA_ARGS__)) {                                \
            tap_show(" got", tap_got, tap_got_len);                                                                    \
            tap_show("want", tap_want, tap_want_len);                                                                  \
        }                                                                                                              \
    } while (0)

#define is_str(got, want, ...)                                                                                         \
    do {                                                                                                               \
        const char *tap_str = (got);                                                                                   \
        is_mem(tap_str ? tap_str : "(null)", strlen(tap_str ? tap_str : "(null)"), (want), strlen(want), __VA_ARGS__); \
    } while (0)

/* A buffer against a string literal, which may hold NULs. */
#define is_buf(buf, literal, ...) is_mem((buf)->data, (buf)->len, (literal), sizeof(literal) - 1, __VA_ARGS__)

static inline int done_testing(void)
{
    printf("1..%d\n", tap_run);
    fflush(stdout);
    return tap_failed > 0;
}

#endif
