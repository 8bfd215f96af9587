/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How providers say the same thing. A speaker is one answer in one dialect; its calls append the bytes of the body, and
 * never send. Opening events come with the first token (or, without one, with the end).
 *
 *     up_dialect_start(&s, up_dialect_find("/openai"), 1, 4, true);
 *     up_dialect_token(&s, &out, "Hel", 3);
 *     up_dialect_end(&s, &out, true);
 *     up_dialect_stop(&s);
 */
#ifndef UPSTREAM_DIALECT_H
#define UPSTREAM_DIALECT_H

#include "buf.h"

#include <stdint.h>
#include <time.h>

struct up_dialect_t;

typedef struct up_speaker_t {
    const struct up_dialect_t *dialect;
    uint64_t n;      /* the running request number; ids are made of it */
    uint64_t tokens; /* said so far */
    uint32_t prompt_tokens;
    bool usage; /* tell the usage, where the dialect has a way to */
    bool opened;
    time_t created;
    uint64_t sequence; /* responses: of the next event */
    up_buf_t prefix;   /* openai, responses: what every token event begins with */
    up_buf_t whole;    /* responses: the answer so far, escaped */
} up_speaker_t;

/* NULL when no dialect has that path. */
const struct up_dialect_t *up_dialect_find(const char *path);
const char *up_dialect_content_type(const struct up_dialect_t *dialect);

void up_dialect_start(up_speaker_t *s, const struct up_dialect_t *dialect, uint64_t n, uint32_t prompt_tokens,
                      bool usage);
void up_dialect_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len);

/* The regular end: finish reason, usage and, unless `marker` is false, the dialect's end marker. */
void up_dialect_end(up_speaker_t *s, up_buf_t *out, bool marker);

/* Frees what the speaker held; a zeroed speaker is fine. */
void up_dialect_stop(up_speaker_t *s);

#endif
