/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the log share: an arena, streams in it, and events whose content tells their number and size. */
#ifndef T_UNIT_LOG_FIXTURE_H
#define T_UNIT_LOG_FIXTURE_H

#include <stdlib.h>

#include "chatstream/log.h"
#include "tap.h"

#define BLOCK_DATA  2040u /* of a block, what records may use */
#define RECORD_HEAD 8u

static inline cs_log_t *log_make(uint32_t streams, uint32_t children, uint32_t blocks)
{
    cs_log_geometry_t geometry = {streams, children, 0};
    cs_log_t *log = NULL;

    geometry.bytes = cs_log_bytes_needed(streams, children) + (uint64_t)blocks * 2048;
    if (cs_log_create(&log, &geometry)) {
        printf("Bail out! no arena\n");
        exit(1);
    }
    return log;
}

/* A spec of a native stream with an id of its own. */
static inline cs_log_spec_t log_spec(const char *user)
{
    static uint32_t count;
    cs_log_spec_t spec = {
        .user = user, .replay_bytes = 1u << 20, .replay_keep = apr_time_from_sec(300), .created_at = 1};

    cs_uuid7_make(&spec.id, apr_time_now());
    count++;
    memcpy(spec.id.bytes + 12, &count, sizeof(count));
    spec.format = cs_format_index(cs_format_find("native"));
    return spec;
}

/* The slot of a new stream; `cursor` stands at its beginning. */
static inline uint32_t log_stream(cs_log_t *log, uint32_t child, const cs_log_spec_t *spec, cs_cursor_t *cursor)
{
    cs_claim_e claim = cs_log_claim(log, child, spec, cursor);

    return claim == CS_CLAIM_NEW ? cursor->slot : CS_LOG_NONE;
}

static inline char log_byte(uint64_t number, size_t at)
{
    return (char)('!' + (number * 7 + at) % 90);
}

static inline apr_status_t log_append(cs_log_t *log, uint32_t slot, uint64_t number, size_t len)
{
    char *text = malloc(len + 1);
    cs_event_t event = {.kind = CS_EVENT_TOKEN, .data = text, .len = len};
    apr_status_t rv;
    size_t i;

    for (i = 0; i < len; i++) {
        text[i] = log_byte(number, i);
    }
    rv = cs_log_append(log, slot, &event);
    free(text);
    return rv;
}

static inline int log_is(const cs_event_t *event, uint64_t number, size_t len)
{
    size_t i;

    if (event->kind != CS_EVENT_TOKEN || event->len != len || event->name_len) {
        return 0;
    }
    for (i = 0; i < len && event->data[i] == log_byte(number, i); i++) {}
    return i == len;
}

/* One call of read inside begin and end. */
static inline cs_read_e log_read_one(cs_cursor_t *cursor, cs_event_t *event, cs_log_ending_t *ending)
{
    cs_read_e got = cs_log_read_begin(cursor);

    if (got == CS_READ_LAGGED) {
        return got;
    }
    got = cs_log_read(cursor, event, ending);
    cs_log_read_end(cursor);
    return got;
}

/* Reads to what is neither event nor error; how many events there were. */
static inline unsigned log_read_all(cs_cursor_t *cursor, cs_read_e *last)
{
    cs_log_ending_t ending;
    cs_event_t event;
    unsigned count = 0;

    while ((*last = log_read_one(cursor, &event, &ending)) == CS_READ_EVENT) {
        count++;
    }
    return count;
}

static inline void log_complete(cs_log_t *log, uint32_t slot)
{
    cs_log_ending_t ending = {.state = CS_STATE_COMPLETED, .prompt_tokens = -1, .completion_tokens = -1};

    cs_log_end(log, slot, &ending, CS_LOG_KEEP);
}

static inline cs_log_usage_t log_usage(cs_log_t *log)
{
    cs_log_usage_t usage;

    cs_log_usage(log, &usage);
    return usage;
}

#define is_valid(log, ...)                                                                                             \
    do {                                                                                                               \
        char tap_why[200] = "";                                                                                        \
        if (!ok(!cs_log_validate((log), tap_why, sizeof(tap_why)), __VA_ARGS__)) {                                     \
            printf("#   %s\n", tap_why);                                                                               \
        }                                                                                                              \
    } while (0)

/* Nothing lives, nothing is kept, every block is free. */
#define is_empty(log, what)                                                                                            \
    do {                                                                                                               \
        cs_log_usage_t is = log_usage(log);                                                                            \
        is_int(is.live, 0, what ": no stream is live");                                                                \
        is_int(is.kept, 0, what ": none is kept");                                                                     \
        is_int(is.blocks_free, is.blocks, what ": every block is free");                                               \
        is_valid(log, what ": the arena is valid");                                                                    \
    } while (0)

#endif
