/* SPDX-License-Identifier: Apache-2.0 */
/* Slots of the log: whose they are, who joins, what is forgotten, what goes when there is no more room, and when. */
#include "log_fixture.h"

#define LONG_AFTER apr_time_from_sec(1000)

static void test_users(void)
{
    cs_log_t *log = log_make(8, 1, 0);
    char a[400], b[400];
    cs_log_spec_t spec;
    cs_cursor_t cursor;
    cs_state_e state;
    uint64_t gap;
    uint32_t child, slots[3];

    cs_log_child_attach(log, &child);
    memset(a, 'x', sizeof(a));
    memset(b, 'x', sizeof(b));
    a[399] = b[399] = '\0';
    b[398] = 'y';
    spec = log_spec(a);
    slots[0] = log_stream(log, child, &spec, &cursor);
    cs_log_cursor_close(&cursor);
    is_int(cs_log_count_user(log, a), 1, "a long name is counted");
    is_int(cs_log_count_user(log, b), 0, "one that differs at its end is another");
    is_int(cs_log_open(log, child, &spec.id, b, 0, &cursor, &gap), CS_OPEN_UNKNOWN, "and may not read");
    is_int(cs_log_cancel(log, &spec.id, b, &state), APR_NOTFOUND, "nor cancel");
    ok(!cs_log_is_cancelled(log, slots[0]), "it was not cancelled");
    is_int(cs_log_cancel(log, &spec.id, a, &state), APR_SUCCESS, "its owner may");
    ok(cs_log_is_cancelled(log, slots[0]) && state == CS_STATE_ADMITTED, "and it says so");
    is_int(cs_log_cancel(log, &spec.id, a, &state), APR_SUCCESS, "twice is fine");
    spec = log_spec("short");
    slots[1] = log_stream(log, child, &spec, &cursor);
    cs_log_cursor_close(&cursor);
    spec = log_spec("short");
    slots[2] = log_stream(log, child, &spec, &cursor);
    cs_log_cursor_close(&cursor);
    is_int(cs_log_count_user(log, "short"), 2, "two streams of a user");
    log_complete(log, slots[1]);
    is_int(cs_log_count_user(log, "short"), 1, "one has ended");
    is_int(cs_log_cancel(log, &spec.id, "short", &state), APR_SUCCESS, "the other is cancelled");
    log_complete(log, slots[2]);
    is_int(cs_log_cancel(log, &spec.id, "short", &state), APR_SUCCESS, "after its end, too");
    is_int(state, CS_STATE_COMPLETED, "with the state it ended in");
    is_int(cs_log_count_user(log, "short"), 0, "none is left");
    log_complete(log, slots[0]);
    cs_log_destroy(log);
}

static void test_joining(void)
{
    cs_log_t *log = log_make(8, 1, 0);
    cs_log_spec_t spec = log_spec("j"), same;
    cs_cursor_t cursor, joined[CS_LOG_READERS];
    cs_read_e last;
    uint32_t child, slot, i;

    cs_log_child_attach(log, &child);
    spec.idem_key = "key";
    spec.scope = 7;
    slot = log_stream(log, child, &spec, &cursor);
    log_append(log, slot, 1, 10);
    same = log_spec("j");
    same.idem_key = "key";
    same.scope = 7;
    is_int(cs_log_claim(log, child, &same, &joined[0]), CS_CLAIM_JOINED, "the same key joins");
    is_int(joined[0].slot, slot, "the same stream");
    is_int(log_read_all(&joined[0], &last), 1, "from its first event");
    is_int(log_usage(log).live, 1, "nothing was claimed");
    for (i = 1; i < CS_LOG_READERS - 1; i++) {
        cs_log_claim(log, child, &same, &joined[i]);
    }
    is_int(cs_log_readers(log, slot), CS_LOG_READERS, "as many readers as there may be");
    is_int(cs_log_claim(log, child, &same, &joined[i]), CS_CLAIM_READERS, "one too many");
    same.scope = 8;
    is_int(cs_log_claim(log, child, &same, &joined[i]), CS_CLAIM_NEW, "elsewhere the key is another");
    log_complete(log, joined[i].slot);
    cs_log_cursor_close(&joined[i]);
    same = log_spec("k");
    same.idem_key = "key";
    same.scope = 7;
    is_int(cs_log_claim(log, child, &same, &joined[i]), CS_CLAIM_NEW, "another user's key is another");
    log_complete(log, joined[i].slot);
    cs_log_cursor_close(&joined[i]);
    cs_log_cursor_close(&joined[0]);
    log_complete(log, slot);
    same.user = "j";
    is_int(cs_log_claim(log, child, &same, &joined[0]), CS_CLAIM_JOINED, "an ended stream is joined while it is kept");
    for (i = 0; i < CS_LOG_READERS - 1; i++) {
        cs_log_cursor_close(&joined[i]);
    }
    cs_log_cursor_close(&cursor);
    cs_log_cursor_close(&cursor);
    cs_log_reap(log, cs_clock_mono() + LONG_AFTER);
    is_empty(log, "joining");
    is_int(cs_log_claim(log, child, &same, &cursor), CS_CLAIM_NEW, "and not afterwards");
    cs_log_destroy(log);
}

static void test_forgetting(void)
{
    cs_log_t *log = log_make(8, 1, 0);
    cs_log_ending_t failed = {.state = CS_STATE_ERROR, .http_status = 502, .code = "upstream_error"}, ending;
    cs_log_spec_t spec = log_spec("f");
    cs_cursor_t cursor, other;
    cs_event_t event;
    uint64_t gap;
    uint32_t child, slot;

    cs_log_child_attach(log, &child);
    spec.idem_key = "again";
    slot = log_stream(log, child, &spec, &cursor);
    cs_log_end(log, slot, &failed, CS_LOG_FORGET);
    is_int(cs_log_open(log, child, &spec.id, "f", 0, &other, &gap), CS_OPEN_UNKNOWN, "a forgotten id is unknown");
    is_int(cs_log_claim(log, child, &spec, &other), CS_CLAIM_NEW, "its key is free");
    cs_log_end(log, other.slot, &failed, CS_LOG_FORGET);
    cs_log_cursor_close(&other);
    is_int(log_read_one(&cursor, &event, &ending), CS_READ_ENDED, "who was there reads how it ended");
    is_int(ending.http_status, 502, "all of it");
    cs_log_end(log, slot, &(cs_log_ending_t){.state = CS_STATE_COMPLETED}, CS_LOG_KEEP);
    log_read_one(&cursor, &event, &ending);
    is_int(ending.state, CS_STATE_ERROR, "a second end does nothing");
    is_int(log_usage(log).kept, 1, "the slot waits for its reader");
    cs_log_cursor_close(&cursor);
    is_empty(log, "forgotten");
    cs_log_destroy(log);
}

static void test_full_and_eviction(void)
{
    enum { STREAMS = 8 };
    cs_log_t *log = log_make(STREAMS, 1, 0);
    cs_cursor_t cursors[2 * STREAMS], one;
    cs_log_spec_t specs[2 * STREAMS], spec = log_spec("late");
    uint64_t gap;
    uint32_t child, i, bad = 0;

    cs_log_child_attach(log, &child);
    for (i = 0; i < STREAMS; i++) {
        specs[i] = log_spec("e");
        log_stream(log, child, &specs[i], &cursors[i]);
    }
    is_int(cs_log_claim(log, child, &spec, &one), CS_CLAIM_FULL, "no more streams than allowed");
    for (i = 0; i < STREAMS; i++) {
        log_append(log, cursors[i].slot, i, 10);
        log_complete(log, cursors[i].slot);
        cs_log_cursor_close(&cursors[i]);
    }
    for (i = STREAMS; i < 2 * STREAMS; i++) {
        specs[i] = log_spec("e");
        log_stream(log, child, &specs[i], &cursors[i]);
    }
    for (i = 0; i < STREAMS; i++) {
        bad += cs_log_open(log, child, &specs[i].id, "e", 0, &one, &gap) != CS_OPEN_OK;
        cs_log_cursor_close(&one);
    }
    is_int(bad, 0, "as many ended streams are kept beside the live ones");
    log_complete(log, cursors[STREAMS].slot);
    cs_log_open(log, child, &specs[0].id, "e", 0, &cursors[0], &gap);
    is_int(cs_log_claim(log, child, &spec, &one), CS_CLAIM_NEW, "then one of the kept goes");
    is_int(cs_log_open(log, child, &specs[1].id, "e", 0, &cursors[1], &gap), CS_OPEN_UNKNOWN,
           "the oldest that nobody reads");
    is_int(cs_log_open(log, child, &specs[2].id, "e", 0, &cursors[2], &gap), CS_OPEN_OK, "and no other");
    is_valid(log, "valid when full");

    /* Blocks: a live stream takes what kept ones hold, but not what is being read. */
    cs_log_cursor_close(&cursors[2]);
    while (!log_append(log, one.slot, 5, BLOCK_DATA - RECORD_HEAD)) {
        bad++;
    }
    is_int(bad, log_usage(log).blocks - 1, "all blocks but the one that is read");
    is_int(cs_log_open(log, child, &specs[2].id, "e", 0, &cursors[2], &gap), CS_OPEN_UNKNOWN, "kept streams made room");
    ok(log_read_all(&cursors[0], &(cs_read_e){0}) == 1, "who reads is left alone");
    is_valid(log, "valid without a free block");
    cs_log_destroy(log);
}

static void test_expiry(void)
{
    cs_log_t *log = log_make(4, 1, 0);
    cs_log_spec_t early = log_spec("x"), late = log_spec("x");
    cs_cursor_t cursor, other;
    apr_time_t now = cs_clock_mono();
    uint64_t gap;
    uint32_t child;

    cs_log_child_attach(log, &child);
    early.replay_keep = apr_time_from_sec(10);
    log_append(log, log_stream(log, child, &early, &cursor), 1, 10);
    log_append(log, log_stream(log, child, &late, &other), 1, 10);
    log_complete(log, other.slot); /* the one that is kept longer stands first in the list */
    log_complete(log, cursor.slot);
    cs_log_cursor_close(&other);
    is_int(cs_log_reap(log, now + apr_time_from_sec(9)), 0, "nobody died");
    is_int(log_usage(log).kept, 2, "nine seconds later both are kept");
    cs_log_reap(log, now + apr_time_from_sec(20));
    is_int(log_usage(log).kept, 2, "past its time, but somebody reads");
    cs_log_cursor_close(&cursor);
    cs_log_reap(log, now + apr_time_from_sec(20));
    is_int(cs_log_open(log, child, &early.id, "x", 0, &cursor, &gap), CS_OPEN_UNKNOWN, "past its time");
    is_int(cs_log_open(log, child, &late.id, "x", 0, &cursor, &gap), CS_OPEN_OK, "the other has more of it");
    cs_log_cursor_close(&cursor);
    cs_log_reap(log, now + LONG_AFTER);
    is_empty(log, "expiry");
    cs_log_destroy(log);
}

int main(void)
{
    test_users();
    test_joining();
    test_forgetting();
    test_full_and_eviction();
    test_expiry();
    return done_testing();
}
