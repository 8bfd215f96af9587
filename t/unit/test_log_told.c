/* SPDX-License-Identifier: Apache-2.0 */
/* What the log tells the records: bytes, reconnects, endings; slots that are held until somebody has written them down; turns. */
#include "log_fixture.h"

#define SEC APR_USEC_PER_SEC

static cs_log_told_t told_of(cs_log_t *log, uint32_t slot)
{
    cs_log_told_t told;

    memset(&told, 0x55, sizeof(told));
    cs_log_told(log, slot, &told);
    return told;
}

static void is_whole(cs_log_t *log, const char *when)
{
    char why[200] = "";

    is_int(cs_log_validate(log, why, sizeof(why)), APR_SUCCESS, "the arena is whole %s", when);
    if (*why) {
        printf("#   %s\n", why);
    }
}

static void test_told(void)
{
    cs_log_t *log = log_make(4, 2, 0);
    uint32_t child = 0, slot;
    cs_log_spec_t spec = log_spec("alice");
    cs_cursor_t first, second;
    uint64_t gap;

    cs_log_child_attach(log, &child);
    slot = log_stream(log, child, &spec, &first);
    cs_log_hold(log, slot);
    is_int(told_of(log, slot).bytes_sent, 0, "nothing was sent");
    is_int(told_of(log, slot).readers, 1, "one reads");
    is_int(told_of(log, slot).has_ended, 0, "it runs");
    cs_log_cursor_sent(&first, 100);
    cs_log_cursor_sent(&first, 20);
    is_int(told_of(log, slot).bytes_sent, 120, "what a reader has sent counts while it reads");
    is_int(cs_log_open(log, child, &spec.id, "alice", 0, &second, &gap), CS_OPEN_OK, "a second reader");
    cs_log_count_reconnect(log, slot);
    cs_log_cursor_sent(&second, 3);
    is_int(told_of(log, slot).bytes_sent, 123, "all readers count");
    cs_log_cursor_close(&first);
    is_int(told_of(log, slot).bytes_sent, 123, "one that has left is not forgotten");
    is_int(told_of(log, slot).reconnects, 1, "somebody came back");
    cs_log_cursor_close(&second);
    log_complete(log, slot);
    is_int(told_of(log, slot).has_ended, 1, "it has ended");
    is_int(told_of(log, slot).ending.state, CS_STATE_COMPLETED, "in this way");
    is_int(told_of(log, slot).bytes_sent, 123, "with these bytes");
    is_int(told_of(log, slot).readers, 0, "and nobody reads");
    is_whole(log, "with a held slot");
    cs_log_release(log, slot);
    cs_log_destroy(log);
}

static void test_held(void)
{
    cs_log_t *log = log_make(1, 1, 0); /* two slots */
    uint32_t child = 0, slot, other;
    cs_log_spec_t held = log_spec("alice"), more = log_spec("bob");
    cs_log_ending_t failed = {.state = CS_STATE_ERROR, .code = "upstream_error"};
    cs_cursor_t cursor;

    held.replay_keep = 0;
    cs_log_child_attach(log, &child);
    slot = log_stream(log, child, &held, &cursor);
    is_int(cs_log_find_held(log, &held.id), CS_LOG_NONE, "nobody holds it");
    cs_log_hold(log, slot);
    is_int(cs_log_find_held(log, &held.id), slot, "it is found by its id");
    cs_log_cursor_close(&cursor);
    cs_log_end(log, slot, &failed, CS_LOG_FORGET);
    is_int(cs_log_find_held(log, &held.id), slot, "also when it is forgotten");
    cs_log_reap(log, cs_clock_mono() + 1000 * SEC);
    is_int(cs_log_find_held(log, &held.id), slot, "and past its time");
    other = log_stream(log, child, &more, &cursor);
    ok(other != CS_LOG_NONE && other != slot, "another stream gets the other slot");
    cs_log_cursor_close(&cursor);
    log_complete(log, other);
    more = log_spec("carol");
    is_int(log_stream(log, child, &more, &cursor), other, "the next one that of the kept stream, not of the held");
    is_int(told_of(log, slot).ending.state, CS_STATE_ERROR, "which still tells how it ended");
    is_whole(log, "meanwhile");
    cs_log_release(log, slot);
    is_int(cs_log_find_held(log, &held.id), CS_LOG_NONE, "released, it is gone");
    cs_log_release(log, slot);
    cs_log_cursor_close(&cursor);
    log_complete(log, other);
    cs_log_reap(log, cs_clock_mono() + 1000 * SEC);
    is_int(log_usage(log).kept, 0, "nothing is left");
    is_int(log_usage(log).blocks_free, log_usage(log).blocks, "no block either");
    is_whole(log, "at the end");
    cs_log_destroy(log);
}

static void test_open_held(void)
{
    cs_log_t *log = log_make(2, 1, 0);
    uint32_t child = 0, slot;
    cs_log_spec_t spec = log_spec("alice");
    cs_cursor_t writer, reader;
    cs_read_e last;

    cs_log_child_attach(log, &child);
    slot = log_stream(log, child, &spec, &writer);
    cs_log_hold(log, slot);
    log_append(log, slot, 1, 10);
    log_append(log, slot, 2, 10);
    cs_log_cursor_close(&writer);
    log_complete(log, slot);
    is_int(cs_log_open_held(log, child, slot, &reader), APR_SUCCESS, "a held slot can be read");
    is_int(log_read_all(&reader, &last), 2, "from its first event");
    is_int(last, CS_READ_ENDED, "to its end");
    cs_log_cursor_close(&reader);
    is_int(cs_log_open_held(log, child + 1, slot, &reader), APR_ENOSPC, "not by a child that is none");
    cs_log_release(log, slot);
    cs_log_destroy(log);
}

static void test_seen(void)
{
    cs_log_t *log = log_make(2, 1, 0);
    char name[32];
    unsigned i, wrong = 0;

    is_int(cs_log_seen(log, "alice", "c1"), 0, "the first time");
    is_int(cs_log_seen(log, "alice", "c1"), 1, "the second");
    is_int(cs_log_seen(log, "bob", "c1"), 0, "another user's is another");
    for (i = 0; i < 10000; i++) {
        snprintf(name, sizeof(name), "conn-%u", i);
        wrong += cs_log_seen(log, "carol", name);
    }
    is_int(wrong, 0, "10,000 new ones are new");
    for (i = 9000; i < 10000; i++) {
        snprintf(name, sizeof(name), "conn-%u", i);
        wrong += !cs_log_seen(log, "carol", name);
    }
    is_int(wrong, 0, "the newest of them are remembered");
    cs_log_destroy(log);
}

static void test_ends_by(void)
{
    cs_log_t *log = log_make(4, 1, 0);
    uint32_t child = 0, one, two;
    cs_log_spec_t spec = log_spec("alice"), other = log_spec("alice");
    cs_cursor_t a, b;

    cs_log_child_attach(log, &child);
    is_int(cs_log_user_ends_by(log, "alice"), 0, "no stream, no end");
    spec.ends_by = 500;
    other.ends_by = 300;
    one = log_stream(log, child, &spec, &a);
    two = log_stream(log, child, &other, &b);
    is_int(cs_log_user_ends_by(log, "alice"), 300, "the one that ends first");
    cs_log_set_ends_by(log, one, 200);
    is_int(cs_log_user_ends_by(log, "alice"), 200, "clocks move");
    is_int(cs_log_user_ends_by(log, "bob"), 0, "not for others");
    cs_log_cursor_close(&a);
    log_complete(log, one);
    is_int(cs_log_user_ends_by(log, "alice"), 300, "what has ended does not count");
    cs_log_cursor_close(&b);
    log_complete(log, two);
    cs_log_destroy(log);
}

static void test_turns(void)
{
    cs_log_t *log = log_make(1, 1, 0);
    cs_uuid_t one, two;
    cs_log_t *other = log_make(1, 1, 0);

    is_int(cs_log_purge_is_due(log, 5 * SEC, 10 * SEC), 1, "the first asks and gets it");
    is_int(cs_log_purge_is_due(log, 14 * SEC, 10 * SEC), 0, "too early");
    is_int(cs_log_purge_is_due(log, 15 * SEC, 10 * SEC), 1, "due");
    is_int(cs_log_reap_is_due(log, 5 * SEC, SEC), 1, "reaping has a turn of its own");
    cs_log_arena_id(log, &one);
    cs_log_arena_id(other, &two);
    ok(memcmp(one.bytes, two.bytes, sizeof(one.bytes)) != 0, "two arenas are told apart");
    cs_log_destroy(log);
    cs_log_destroy(other);
}

int main(void)
{
    test_told();
    test_held();
    test_open_held();
    test_seen();
    test_ends_by();
    test_turns();
    return done_testing();
}
