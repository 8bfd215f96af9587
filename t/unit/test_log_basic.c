/* SPDX-License-Identifier: Apache-2.0 */
/* The log in one process: geometry, children, records at every place of a block, opening at every number. */
#include "log_fixture.h"

#define LONG_AFTER apr_time_from_sec(1000)

static void test_geometry(void)
{
    cs_log_geometry_t geometry = {16, 4, 0};
    cs_log_t *log;
    cs_log_usage_t usage;

    geometry.bytes = cs_log_bytes_needed(16, 4);
    is_int(cs_log_create(&log, &geometry), APR_SUCCESS, "as small as can be");
    ok(cs_log_has_geometry(log, &geometry), "it has what was asked for");
    usage = log_usage(log);
    is_int(usage.max_streams, 16, "streams");
    ok(usage.blocks >= 32, "two blocks a stream");
    is_int(usage.blocks_free, usage.blocks, "all free");
    is_int(usage.children, 0, "no child");
    is_valid(log, "valid when new");
    geometry.bytes++;
    ok(!cs_log_has_geometry(log, &geometry), "another size is another arena");
    cs_log_destroy(log);
    cs_log_destroy(NULL);
    geometry.bytes = cs_log_bytes_needed(16, 4) - 1;
    is_int(cs_log_create(&log, &geometry), APR_EINVAL, "one byte less is too small");
    ok(log == NULL, "and leaves nothing");
    geometry = (cs_log_geometry_t){0, 4, 1 << 20};
    is_int(cs_log_create(&log, &geometry), APR_EINVAL, "no streams");
    geometry = (cs_log_geometry_t){UINT32_MAX, 4, 1 << 20};
    is_int(cs_log_create(&log, &geometry), APR_EINVAL, "too many streams for the bytes");
    geometry = (cs_log_geometry_t){16, 4, UINT64_MAX};
    is_int(cs_log_create(&log, &geometry), APR_EINVAL, "more bytes than there are addresses");
}

static void test_children(void)
{
    cs_log_t *log = log_make(4, 2, 0);
    cs_log_spec_t spec = log_spec("u");
    cs_cursor_t cursor;
    uint32_t a, b, c;
    uint64_t gap;

    is_int(cs_log_child_attach(log, &a), APR_SUCCESS, "a child");
    is_int(cs_log_child_attach(log, &b), APR_SUCCESS, "another");
    ok(a != b, "two entries");
    is_int(cs_log_child_attach(log, &c), APR_ENOSPC, "a third does not fit");
    cs_log_child_detach(log, a);
    is_int(cs_log_child_attach(log, &c), APR_SUCCESS, "until one goes");
    cs_log_child_detach(log, b);
    is_int(cs_log_claim(log, b, &spec, &cursor), CS_CLAIM_FULL, "one that has gone gets no stream");
    ok(log_stream(log, c, &spec, &cursor) != CS_LOG_NONE, "the other does");
    cs_log_cursor_close(&cursor);
    is_int(cs_log_open(log, b, &spec.id, "u", 0, &cursor, &gap), CS_OPEN_READERS, "nor may it read");
    cs_log_child_detach(log, c);
    is_int(log_usage(log).live, 0, "a stream that its child forgot to end has ended with it");
    cs_log_reap(log, cs_clock_mono() + LONG_AFTER);
    is_empty(log, "after that");
    cs_log_destroy(log);
}

/* A record of `len` bytes that begins `offset` bytes into a block, with one before and one behind it. */
static int record_survives(cs_log_t *log, uint32_t child, uint32_t offset, size_t len)
{
    cs_log_spec_t spec = log_spec("edges");
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    uint32_t slot = log_stream(log, child, &spec, &cursor);
    int good = slot != CS_LOG_NONE;

    good = good && !log_append(log, slot, 1, offset - RECORD_HEAD) && !log_append(log, slot, 2, len)
           && !log_append(log, slot, 3, 5);
    good = good && log_read_one(&cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, 1, offset - RECORD_HEAD);
    good = good && log_read_one(&cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, 2, len) && event.seq == 3;
    good = good && log_read_one(&cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, 3, 5);
    good = good && log_read_one(&cursor, &event, &ending) == CS_READ_EMPTY;
    cs_log_end(log, slot, &(cs_log_ending_t){.state = CS_STATE_ERROR, .code = "x"}, CS_LOG_FORGET);
    cs_log_cursor_close(&cursor);
    return good;
}

static void test_records(void)
{
    static const size_t lens[] = {0,
                                  1,
                                  7,
                                  8,
                                  9,
                                  BLOCK_DATA - 17,
                                  BLOCK_DATA - 16,
                                  BLOCK_DATA - 8,
                                  BLOCK_DATA - 7,
                                  BLOCK_DATA,
                                  BLOCK_DATA + 1,
                                  2 * BLOCK_DATA - 8,
                                  3 * BLOCK_DATA + 3};
    cs_log_t *log = log_make(4, 1, 16);
    cs_log_ending_t ending;
    cs_log_spec_t spec;
    cs_cursor_t cursor;
    cs_event_t event = {.kind = CS_EVENT_RAW, .name = "update", .name_len = 6, .data = "a\nb", .len = 3};
    char name[256];
    uint32_t child, slot, offset;
    size_t i, len;
    int bad = 0;

    cs_log_child_attach(log, &child);
    for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        for (offset = RECORD_HEAD; offset <= BLOCK_DATA; offset += 8) {
            if (!record_survives(log, child, offset, lens[i])) {
                printf("#   a record of %zu bytes at %u does not\n", lens[i], offset);
                bad++;
            }
        }
    }
    is_int(bad, 0, "records of many sizes at every place of a block come out as they went in");
    is_empty(log, "records");

    spec = log_spec("names");
    slot = log_stream(log, child, &spec, &cursor);
    cs_log_append(log, slot, &event);
    memset(name, 'n', sizeof(name));
    cs_log_append(log, slot, &(cs_event_t){.kind = CS_EVENT_RAW, .name = name, .name_len = 255, .data = "", .len = 0});
    cs_log_append(log, slot, &(cs_event_t){.kind = CS_EVENT_METADATA, .data = "{}", .len = 2});
    log_read_one(&cursor, &event, &ending);
    ok(event.kind == CS_EVENT_RAW && event.seq == 2, "an event with a name");
    is_mem(event.name, event.name_len, "update", 6, "its name");
    is_mem(event.data, event.len, "a\nb", 3, "its data");
    log_read_one(&cursor, &event, &ending);
    is_mem(event.name, event.name_len, name, 255, "the longest name, with no data");
    is_int(event.len, 0, "no data");
    log_read_one(&cursor, &event, &ending);
    ok(event.kind == CS_EVENT_METADATA && event.name_len == 0, "metadata");
    log_complete(log, slot);
    cs_log_cursor_close(&cursor);

    /* The largest that fits: all blocks there are, the kept stream's too. */
    len = (size_t)log_usage(log).blocks * BLOCK_DATA - RECORD_HEAD;
    spec = log_spec("large");
    slot = log_stream(log, child, &spec, &cursor);
    is_int(log_append(log, slot, 1, len + 1), APR_ENOSPC, "a record larger than the arena");
    is_int(log_usage(log).blocks_free, log_usage(log).blocks, "takes nothing in the end; what was kept made room");
    is_int(log_append(log, slot, 2, len), APR_SUCCESS, "one as large as the arena");
    is_int(log_usage(log).blocks_free, 0, "takes all of it");
    ok(log_read_one(&cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, 2, len), "and is read");
    is_int(event.seq, 2, "what failed has no number");
    is_int(log_append(log, slot, 3, 0), APR_ENOSPC, "then there is no room for an empty one");
    is_valid(log, "a full arena is valid");
    log_complete(log, slot);
    cs_log_cursor_close(&cursor);
    cs_log_reap(log, cs_clock_mono() + LONG_AFTER);
    is_empty(log, "largest");
    cs_log_destroy(log);
}

static void test_numbers(const char *format, uint64_t first)
{
    cs_log_t *log = log_make(4, 1, 64);
    cs_log_spec_t spec = log_spec("n");
    cs_log_ending_t ending;
    cs_cursor_t cursor, other;
    cs_event_t event;
    cs_uuid_t id;
    apr_time_t created_at;
    uint64_t after, gap, last = first + 19, final = last + (first == 2);
    uint32_t child, slot, i;
    int bad = 0;

    cs_log_child_attach(log, &child);
    spec.format = cs_format_index(cs_format_find(format));
    slot = log_stream(log, child, &spec, &cursor);
    cs_log_slot_info(log, slot, &id, &created_at, &i);
    ok(!memcmp(&id, &spec.id, sizeof(id)) && created_at == 1 && i == spec.format, "%s: what the slot says", format);
    for (i = 0; i < 20; i++) {
        log_append(log, slot, i, 300);
    }
    for (after = 0; after <= last + 3; after++) {
        uint64_t expected = after < first ? first : after + 1;

        bad += cs_log_open(log, child, &spec.id, "n", after, &other, &gap) != CS_OPEN_OK || gap;
        for (; expected <= last; expected++) {
            bad += log_read_one(&other, &event, &ending) != CS_READ_EVENT || event.seq != expected
                   || !log_is(&event, expected - first, 300);
        }
        bad += log_read_one(&other, &event, &ending) != CS_READ_EMPTY;
        cs_log_cursor_close(&other);
    }
    is_int(bad, 0, "%s: a live stream opened after each number", format);
    log_complete(log, slot);
    bad = 0;
    for (after = 0; after < final; after++) {
        cs_read_e got;

        bad += cs_log_open(log, child, &spec.id, "n", after, &other, &gap) != CS_OPEN_OK || gap;
        bad += log_read_all(&other, &got) != last - (after < first ? first - 1 : after) || got != CS_READ_ENDED;
        bad += other.seq != last;
        cs_log_cursor_close(&other);
    }
    is_int(bad, 0, "%s: an ended one opened after each number", format);
    is_int(cs_log_open(log, child, &spec.id, "n", final, &other, &gap), CS_OPEN_SEEN,
           "%s: after the last there is nothing", format);
    is_int(cs_log_open(log, child, &spec.id, "n", final + 9, &other, &gap), CS_OPEN_SEEN, "%s: nor after a later one",
           format);
    is_int(cs_log_open(log, child, &spec.id, "other", 0, &other, &gap), CS_OPEN_UNKNOWN, "%s: another user's", format);
    spec.id.bytes[15] ^= 1;
    is_int(cs_log_open(log, child, &spec.id, "n", 0, &other, &gap), CS_OPEN_UNKNOWN, "%s: no such id", format);
    cs_log_cursor_close(&cursor);
    cs_log_destroy(log);
}

static void test_gap(void)
{
    cs_log_t *log = log_make(4, 1, 64);
    cs_log_spec_t spec = log_spec("g");
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    uint64_t gap = 0, after;
    uint32_t child, slot, i;
    int bad = 0;

    cs_log_child_attach(log, &child);
    spec.replay_bytes = 8192;
    slot = log_stream(log, child, &spec, &cursor);
    cs_log_cursor_close(&cursor);
    for (i = 0; i < 500; i++) {
        bad += !cs_log_has_room(log, slot) || log_append(log, slot, i, 100);
    }
    is_int(bad, 0, "nobody reads: there is always room, for the head goes");
    ok(log_usage(log).blocks - log_usage(log).blocks_free <= 6, "the log keeps to its size");
    is_valid(log, "valid when the head has gone");
    for (bad = 0, after = 0; after <= 501; after++) {
        cs_log_open(log, child, &spec.id, "g", after, &cursor, &gap);
        bad += gap && gap <= after;
        bad += !gap && after < 400;
        if (log_read_one(&cursor, &event, &ending) == CS_READ_EVENT) {
            bad += event.seq != (gap ? gap : after) + 1 || !log_is(&event, event.seq - 2, 100);
        }
        else {
            bad += after != 501;
        }
        cs_log_cursor_close(&cursor);
    }
    is_int(bad, 0, "opened after each number: the gap ends where the log begins");
    cs_log_destroy(log);
}

int main(void)
{
    test_geometry();
    test_children();
    test_records();
    test_numbers("native", 2);
    test_numbers("raw", 1);
    test_gap();
    return done_testing();
}
