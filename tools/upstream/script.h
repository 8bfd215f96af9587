/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripts: parsed once when they are put, checked then, and kept by name. A script that is replaced or forgotten lives
 * on until the answers that follow it have ended.
 */
#ifndef UPSTREAM_SCRIPT_H
#define UPSTREAM_SCRIPT_H

#include "buf.h"

#include <stdint.h>

#define UP_REPEAT_DEPTH 8

typedef enum up_verb_t {
    UP_DO_STATUS,
    UP_DO_HEADER,
    UP_DO_LENGTH,
    UP_DO_HEADERS,
    UP_DO_SEND,
    UP_DO_TOKEN,
    UP_DO_DONE,
    UP_DO_RAW,
    UP_DO_FILL,
    UP_DO_SLEEP,
    UP_DO_WAIT,
    UP_DO_SIGNAL,
    UP_DO_REPEAT,
    UP_DO_END,
    UP_DO_STALL,
    UP_DO_CUT,
    UP_DO_CLOSE
} up_verb_t;

/* A place in a text where `$message` ('m') or `$n` ('n') stood. */
typedef struct up_insert_t {
    size_t at;
    char what;
} up_insert_t;

typedef struct up_line_t {
    up_verb_t verb;
    uint64_t number; /* status, length, bytes, milliseconds, times */
    char *text;      /* header, name, or the text with its escapes resolved */
    size_t len;
    up_insert_t *inserts;
    size_t inserts_count;
} up_line_t;

typedef struct up_script_t {
    up_line_t *lines;
    size_t count;
    unsigned users; /* the registry's own, and every answer that follows it */
} up_script_t;

/* Parses and keeps it under that name. On failure `wrong` says which line and why. */
bool up_script_put(const char *name, const char *text, size_t len, char *wrong, size_t wrong_size);

/* NULL when there is none; otherwise the caller is a user until up_script_release(). */
up_script_t *up_script_use(const char *name);
void up_script_release(up_script_t *script);

void up_script_forget_all(void);

#endif
