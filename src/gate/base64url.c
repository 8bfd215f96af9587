/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include "gate/base64url.h"

/* Arithmetic, not a table: `k` of a JWK passes here, and which cache lines it touches should not depend on it. */
static uint32_t value_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - (uint32_t)'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - (uint32_t)'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - (uint32_t)'0' + 52;
    }
    return c == '-' ? 62 : c == '_' ? 63 : 64;
}

int cs_base64url_decode(const char *text, size_t len, unsigned char *out)
{
    uint32_t bits = 0;
    unsigned have = 0;
    if (len % 4 == 1) {
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        uint32_t value = value_of((unsigned char)text[i]);
        if (value > 63) {
            return 0;
        }
        bits = bits << 6 | value;
        have += 6;
        if (have >= 8) {
            have -= 8;
            if (out != NULL) {
                *out++ = (unsigned char)(bits >> have);
            }
        }
    }
    return (bits & ((1U << have) - 1)) == 0;
}
