/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The query string: how one answer shall behave. Names and values are checked strictly, because a test with a misspelt
 * parameter would otherwise pass for the wrong reason.
 */
#ifndef UPSTREAM_PARAMS_H
#define UPSTREAM_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UP_NAME_MAX 64

typedef struct up_params_t {
    uint32_t tokens;
    uint32_t size;  /* bytes of text per token */
    uint32_t rate;  /* events per second; 0: all at once */
    uint32_t delay; /* ms before the head */
    uint32_t first; /* ms between head and first token */
    uint32_t split; /* 0, or bytes per send */
    uint32_t status;
    int64_t retry_after; /* -1: no header */
    bool burst;          /* rate is 0 then */
    bool utf8;
    bool echo;
    bool stamp;
    bool usage;
    bool done;
    bool close;
    char script[UP_NAME_MAX + 1]; /* "" when there is none */
} up_params_t;

/* On failure `wrong` holds a sentence about what was wrong with which parameter. */
bool up_params_parse(up_params_t *p, const char *query, char *wrong, size_t wrong_size);

/* A decimal number up to max, the whole of the text. */
bool up_params_number(const char *text, uint64_t max, uint64_t *number);

/* Names of scripts and signals: 1 to 64 of A-Z a-z 0-9 _ . - */
bool up_params_name(const char *text);

#endif
