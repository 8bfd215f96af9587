/* SPDX-License-Identifier: Apache-2.0 */
/* bytes: little-endian numbers and hexadecimal, for the files of the journal. Any thread. */
#ifndef CS_RECORD_BYTES_H
#define CS_RECORD_BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline void put_le(char *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (char)(unsigned char)(value >> (8 * i));
    }
}

static inline uint64_t get_le(const char *in, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)(unsigned char)in[i] << (8 * i);
    }
    return value;
}

/* 2 * len characters and a NUL. */
static inline void put_hex(char *out, const void *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *in = bytes;

    for (size_t i = 0; i < len; i++) {
        *out++ = digits[in[i] >> 4];
        *out++ = digits[in[i] & 15];
    }
    *out = '\0';
}

static inline int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Exactly 2 * len lower-case digits and a NUL; else 0, and `out` is of no use. */
static inline int get_hex(char *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++, text += 2) {
        int high = hex_digit(text[0]);
        int low = high < 0 ? -1 : hex_digit(text[1]);

        if (low < 0) {
            return 0;
        }
        out[i] = (char)(unsigned char)(high << 4 | low);
    }
    return *text == '\0';
}

#endif
