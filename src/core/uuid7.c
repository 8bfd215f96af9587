/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uuid7: stream ids. Time first, so that ids sort by age in a database index; the rest random, so that none can be
 * guessed.
 */
#include "chatstream/core.h"

#include <errno.h>
#include <sys/random.h>

apr_status_t cs_uuid7_make(cs_uuid_t *uuid, apr_time_t when)
{
    unsigned char *b = uuid->bytes;
    /* 16 bytes come whole from getrandom(2) once the pool is ready; before that, at boot, a signal may interrupt it. */
    for (;;) {
        ssize_t got = getrandom(b, sizeof(uuid->bytes), 0);
        if (got == (ssize_t)sizeof(uuid->bytes)) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            return APR_FROM_OS_ERROR(errno);
        }
    }
    uint64_t ms = when < 0 ? 0 : (uint64_t)when / 1000;
    for (int i = 0; i < 6; i++) {
        b[i] = (unsigned char)(ms >> (8 * (5 - i)));
    }
    b[6] = (unsigned char)(0x70 | (b[6] & 0x0f));
    b[8] = (unsigned char)(0x80 | (b[8] & 0x3f));
    return APR_SUCCESS;
}

static int dash_before(int byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void cs_uuid_format(char out[CS_UUID_LEN + 1], const cs_uuid_t *uuid)
{
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (dash_before(i)) {
            *out++ = '-';
        }
        *out++ = hex[uuid->bytes[i] >> 4];
        *out++ = hex[uuid->bytes[i] & 15];
    }
    *out = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

apr_status_t cs_uuid_parse(cs_uuid_t *uuid, const char *text, size_t len)
{
    cs_uuid_t parsed;
    if (len != CS_UUID_LEN) {
        return APR_EINVAL;
    }
    for (int i = 0; i < 16; i++) {
        if (dash_before(i) && *text++ != '-') {
            return APR_EINVAL;
        }
        int high = hex_value(*text++);
        int low = hex_value(*text++);
        if (high < 0 || low < 0) {
            return APR_EINVAL;
        }
        parsed.bytes[i] = (unsigned char)(high << 4 | low);
    }
    *uuid = parsed;
    return APR_SUCCESS;
}
