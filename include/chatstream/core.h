/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core: the small things every room needs. Knows APR and libc only; nothing here keeps state, so every function may be
 * called from any thread.
 *
 *     cs_buf_t out;
 *     cs_buf_init(&out, 64 * 1024);
 *     if (cs_buf_append(&out, "data: ", 6) == APR_SUCCESS) { ... }
 *     cs_buf_free(&out);
 */
#ifndef CHATSTREAM_CORE_H
#define CHATSTREAM_CORE_H

#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_time.h>

/* ---- buf: a growing byte buffer on the C heap, with a bound ------------------------------------------------------ */

typedef struct {
    char *data; /* NULL until the first byte; not NUL-terminated */
    size_t len;
    size_t cap;
    size_t max; /* the buffer refuses to hold more than this */
} cs_buf_t;

void cs_buf_init(cs_buf_t *buf, size_t max);
/* Frees the bytes; the buffer may be used again. Accepts a zeroed struct. */
void cs_buf_free(cs_buf_t *buf);
/* Makes room for `extra` more bytes after len. APR_ENOSPC past max, APR_ENOMEM; the content stays as it was. */
apr_status_t cs_buf_reserve(cs_buf_t *buf, size_t extra);
/* All or nothing; errors as cs_buf_reserve. */
apr_status_t cs_buf_append(cs_buf_t *buf, const void *bytes, size_t len);
apr_status_t cs_buf_append_str(cs_buf_t *buf, const char *str);
apr_status_t cs_buf_append_u64(cs_buf_t *buf, uint64_t value);
/* Appends a JSON string with its quotes (RFC 8259 section 7). `text` must be valid UTF-8. */
apr_status_t cs_buf_append_json(cs_buf_t *buf, const char *text, size_t len);
/* The same without the quotes, for strings made of several parts. */
apr_status_t cs_buf_append_json_part(cs_buf_t *buf, const char *text, size_t len);
/* How many bytes at the start of `text` a JSON string may hold as they are. */
size_t cs_json_plain_span(const char *text, size_t len);
/* Hands the malloc'ed bytes over to the caller, who frees them; the buffer is empty afterwards. */
char *cs_buf_detach(cs_buf_t *buf, size_t *len);

/* ---- clock ------------------------------------------------------------------------------------------------------- */

/* Microseconds on a clock that never jumps; shared by all processes of the machine, so it may be put in shared memory. */
apr_time_t cs_clock_mono(void);

#define CS_ISO8601_LEN 24
/* "2026-02-17T10:00:00.000Z" and a NUL. `when` is wall-clock time as of apr_time_now(). */
void cs_clock_iso8601(char out[CS_ISO8601_LEN + 1], apr_time_t when);

/* ---- uuid7: RFC 9562 section 5.7 --------------------------------------------------------------------------------- */

#define CS_UUID_LEN 36

typedef struct {
    unsigned char bytes[16];
} cs_uuid_t;

/* A new id for wall-clock time `when`; the 74 random bits come from the system. */
apr_status_t cs_uuid7_make(cs_uuid_t *uuid, apr_time_t when);
/* 36 lower-case characters and a NUL. */
void cs_uuid_format(char out[CS_UUID_LEN + 1], const cs_uuid_t *uuid);
/* Exactly 36 characters in the canonical form, upper or lower case; APR_EINVAL for anything else. */
apr_status_t cs_uuid_parse(cs_uuid_t *uuid, const char *text, size_t len);

/* ---- hash: for tables, not for secrets --------------------------------------------------------------------------- */

uint64_t cs_hash64(const void *bytes, size_t len);

/* ---- utf8: RFC 3629 ---------------------------------------------------------------------------------------------- */

/* Length of the longest prefix that is valid and complete. */
size_t cs_utf8_valid_prefix(const char *text, size_t len);
static inline int cs_utf8_valid(const char *text, size_t len)
{
    return cs_utf8_valid_prefix(text, len) == len;
}
/* How many bytes at the end of `text` begin a character that more bytes could still complete (0 to 3). */
size_t cs_utf8_incomplete_suffix(const char *text, size_t len);
/* Appends `text`; each maximal ill-formed part becomes U+FFFD (WHATWG Encoding, "UTF-8 decode"). */
apr_status_t cs_utf8_append_repaired(cs_buf_t *out, const char *text, size_t len);

/* ---- result: a failure a client may see -------------------------------------------------------------------------- */

/*
 * `code` and `message` go to the client and are static text of this module; `log` goes to the error log and names upstream
 * and reason; neither ever holds what a user wrote or a secret.
 */
typedef struct {
    int status;       /* HTTP status; 0: no failure */
    const char *code; /* member "code" of the problem document, or of the error event */
    const char *message;
    int retry_after; /* seconds; 0: say nothing */
    const char *log;
} cs_result_t;

#endif
